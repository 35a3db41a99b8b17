"""Attention by the fused kernel is attention."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cadence.models import flow_stream
from cadence.models.flow_config import DiTConfig, EncoderConfig, FlowConfig
from cadence.models.flow_stream import FlowStream
from cadence.models.graph_attention import fused_attention, fused_attention_works

CONFIG = FlowConfig(
    vocab_size=8,
    mel_dim=80,
    speaker_dim=192,
    guidance=0.7,
    encoder=EncoderConfig(hidden=16, num_blocks=1, num_up_blocks=1, num_heads=2, linear_units=16),
    dit=DiTConfig(
        in_channels=320, out_channels=80, hidden=32, depth=1, num_heads=2, head_dim=16, mlp_ratio=2.0
    ),
)


def test_the_fused_kernel_gives_what_torchs_gives() -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    draw = random.Random(seed)
    torch.manual_seed(seed)
    for _ in range(8):
        batch, heads, count, length = (draw.randrange(1, top) for top in (3, 9, 60, 300))
        queries = torch.randn(batch, count, heads, 64).transpose(1, 2)  # as they come out of a product
        keys, values = torch.randn(2, batch, heads, length, 64)
        expected = F.scaled_dot_product_attention(queries, keys, values)
        assert torch.allclose(fused_attention(queries, keys, values), expected, atol=1e-5)


def _rows(count: int, seed: int) -> list[Tensor]:
    """Queries, keys and values [G, heads, n, d], as the graphs give them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (CONFIG.groups, count, CONFIG.dit.num_heads, CONFIG.dit.head_dim)
    return [torch.randn(shape, generator=generator).transpose(1, 2) for _ in range(3)]


def _speak(chunks: int) -> Tensor:
    """What attention finds for a stream's last chunk; the prompt's 160 frames are soon seen in part."""
    like = torch.empty(0)
    prompt = FlowStream(CONFIG, None, num_steps=1, max_codes=100, like=like)
    prompt.begin(80)
    prompt.memory(0).attend(0, *_rows(160, seed=99))
    prompt.commit()
    voice = prompt.as_voice(torch.zeros(CONFIG.mel_dim))
    stream = FlowStream(CONFIG, voice, num_steps=1, max_codes=100, like=like)
    for chunk in range(chunks):
        stream.begin(25)
        found = stream.memory(0).attend(0, *_rows(50, seed=chunk))
        stream.commit()
    return found


@pytest.mark.parametrize("chunks", [1, 5])
def test_a_stream_is_the_same_where_the_runtime_has_no_fused_kernel(
    chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert fused_attention_works()
    fused = _speak(chunks)
    monkeypatch.setattr(flow_stream, "fused_attention_works", lambda: False)
    plain = _speak(chunks)
    assert torch.allclose(fused, plain, atol=1e-5)
    assert fused.std() > 0.01
