"""int8 weights of the Thinker: an option within its gate, and no sequence changes another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from thinker_kit import Kit, run_all

from cadence.errors import ConfigError
from cadence.models.int8 import int8_works
from cadence.models.qwen2 import causal_attention
from cadence.models.step_audio import load_step_audio

needs_kernels = pytest.mark.skipif(not int8_works(), reason="no int8 kernels here")


class Alone:
    """`AttentionMemory` of one sequence that begins here."""

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return causal_attention(q[None], k[None], v[None])[0]


@needs_kernels
@torch.inference_mode()
def test_logits_stay_within_the_gate(tiny_checkpoint: Path) -> None:
    plain, rounded = (
        load_step_audio(tiny_checkpoint, device=torch.device("cpu"), dtype="float32") for _ in range(2)
    )
    rounded.prepare("int8")
    ids, positions = torch.arange(200) % 256, torch.arange(200)
    expected, found = (
        model.logits(model.decode(model.embed_ids(ids), positions, Alone())) for model in (plain, rounded)
    )
    error = (found - expected).std() / expected.std()
    assert 0 < error < 0.1


@needs_kernels
def test_batched_equals_alone(tiny_checkpoint: Path) -> None:
    kit = Kit(tiny_checkpoint, "cpu")
    kit.model.prepare("int8")
    alone = {}
    for request in kit.variety():
        alone |= run_all(kit.core(), [request])
    assert run_all(kit.core(max_num_batched_tokens=37, max_num_seqs=8), kit.variety()) == alone


def test_it_is_refused_where_it_cannot_be_computed(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_step_audio(tiny_checkpoint, device=torch.device("cpu"), dtype="float32")
    monkeypatch.setattr("cadence.models.step_audio.int8_works", lambda: False)
    with pytest.raises(ConfigError, match="int8"):
        model.prepare("int8")


def test_other_weights_are_refused_by_name(tiny_checkpoint: Path) -> None:
    model = load_step_audio(tiny_checkpoint, device=torch.device("cpu"), dtype="float32")
    with pytest.raises(ConfigError, match="int3"):
        model.prepare("int3")
