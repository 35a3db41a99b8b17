"""The decoder prepared for serving computes what the plain modules compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cadence.models.linear import Product, fuse, pack_half
from cadence.models.qwen2 import causal_attention
from cadence.models.step_audio import StepAudio, load_step_audio


class Alone:
    """`AttentionMemory` of one sequence that begins here."""

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return causal_attention(q[None], k[None], v[None])[0]


@pytest.fixture
def pair(tiny_checkpoint: Path, device: str) -> tuple[StepAudio, StepAudio]:
    """(plain, prepared)"""
    plain, prepared = (
        load_step_audio(tiny_checkpoint, device=torch.device(device), dtype="float32") for _ in range(2)
    )
    prepared.prepare()
    return plain, prepared


@torch.inference_mode()
@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_hidden_states_and_logits_are_those_of_the_plain_model(
    pair: tuple[StepAudio, StepAudio], count: int
) -> None:
    plain, prepared = pair
    ids = torch.arange(count, device=plain.device) * 5 % 256
    positions = torch.arange(count, device=plain.device)
    expected = plain.decode(plain.embed_ids(ids), positions, Alone())
    found = prepared.decode(prepared.embed_ids(ids), positions, Alone())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.std()))
    for first, last in ((0, None), (0, 300), (270, 400)):
        logits = prepared.logits(found, first, last)
        wanted = plain.logits(expected, first, last)
        torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5 * float(wanted.std()))


def test_preparing_keeps_every_weight_and_its_name(pair: tuple[StepAudio, StepAudio]) -> None:
    plain, prepared = (model.state_dict() for model in pair)
    assert plain.keys() == prepared.keys()
    assert all(torch.equal(plain[name], prepared[name]) for name in plain)


def test_weights_that_would_not_fit_twice_stay_where_they_are(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cadence.models.step_audio.total_memory_bytes", lambda: 1)
    model = load_step_audio(tiny_checkpoint, device=torch.device("cpu"), dtype="float32")
    place = model.model.norm.weight.data_ptr(), model.state_dict()["lm_head.weight"].data_ptr()
    queries = [name for name in model.state_dict() if "q_proj.weight" in name]
    before = [model.state_dict()[name].data_ptr() for name in queries]
    model.prepare()
    assert (model.model.norm.weight.data_ptr(), model.state_dict()["lm_head.weight"].data_ptr()) == place
    assert [model.state_dict()[name].data_ptr() for name in queries] == before


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 2, 33])
@pytest.mark.parametrize("biased", [True, False])
def test_a_fused_product_is_its_parts_side_by_side(rows: int, biased: bool) -> None:
    torch.manual_seed(0)
    parts = [nn.Linear(24, width, bias=biased) for width in (16, 5, 40)]
    x = torch.randn(rows, 24)
    expected = torch.cat([part(x) for part in parts], dim=-1)
    fused = fuse(*parts)
    torch.testing.assert_close(fused(x), expected)
    torch.testing.assert_close(torch.cat([part(x) for part in parts], dim=-1), expected)


@torch.inference_mode()
@pytest.mark.parametrize("rows", [1, 2, 5, 70])
@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
def test_weights_of_16_bit_checkpoints_lose_nothing(rows: int, stored: torch.dtype) -> None:
    torch.manual_seed(rows)
    weight, bias = torch.randn(40, 64).to(stored).float(), torch.randn(40)
    weight[0, :4] = torch.tensor([1e-7, -3e-6, 100.0, 0.0]).to(stored).float()
    x = torch.randn(rows, 64)
    expected = x.double() @ weight.double().T + bias
    torch.testing.assert_close(Product(weight, bias)(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_a_weight_that_float16_cannot_hold_is_not_kept_in_it() -> None:
    torch.manual_seed(0)
    weight = torch.randn(8, 16)
    assert pack_half(weight) is None
    assert not Product(weight).is_half
    weight = weight.bfloat16().float()
    weight[3, 3] = 2.0**20
    assert pack_half(weight) is None


@torch.inference_mode()
def test_other_number_types_are_multiplied_as_they_are() -> None:
    weight, x = torch.randn(8, 16).bfloat16(), torch.randn(3, 16).bfloat16()
    assert Product(weight)(x).dtype == torch.bfloat16
