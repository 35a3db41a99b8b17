"""What a stream of the flow remembers, and how it attends to it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cadence.models import flow_stream
from cadence.models.flow_config import DiTConfig, EncoderConfig, FlowConfig
from cadence.models.flow_stream import FlowStream
from cadence.models.frame_store import SpareWindow
from cadence.models.graph_attention import fused_attention_works

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


def _rows(count: int, seed: int) -> list[Tensor]:
    """Queries, keys and values [G, heads, n, d], as the graphs give them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (CONFIG.groups, count, CONFIG.dit.num_heads, CONFIG.dit.head_dim)
    return [torch.randn(shape, generator=generator).transpose(1, 2) for _ in range(3)]


def _opened(spare: SpareWindow | None = None) -> FlowStream:
    """A stream of a voice of 160 frames, which later chunks see in part."""
    like = torch.empty(0)
    prompt = FlowStream(CONFIG, None, num_steps=1, max_codes=100, like=like)
    prompt.begin(80)
    prompt.memory(0).attend(0, *_rows(160, seed=99))
    prompt.commit()
    voice = prompt.as_voice(torch.zeros(CONFIG.mel_dim))
    return FlowStream(CONFIG, voice, num_steps=1, max_codes=100, like=like, spare=spare)


def _speak(chunks: int) -> Tensor:
    """What attention finds for a stream's last chunk."""
    stream = _opened()
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


def test_a_window_in_main_memory_never_moves_and_counts_as_it_is_written() -> None:
    stream = _opened()
    places, sizes = set(), []
    for count in (5, 10, 20, 25, 25, 25, 25, 25):
        stream.begin(count)
        stream.commit()
        places.add(stream._store.data_ptr())
        sizes.append(stream.num_bytes // stream.frame_bytes)
    assert len(places) == 1
    assert sizes == sorted(sizes) and sizes[0] < 0.2 * sizes[-1]
    assert stream.num_bytes >= stream._store.nbytes  # in the end it is full


def test_a_chunk_longer_than_usual_finds_room() -> None:
    stream = _opened()
    for count in (25, 25, 25, 60, 25):
        stream.begin(count)
        stream.memory(0).attend(0, *_rows(2 * count, seed=count))
        stream.commit()
    assert stream._store.shape[-2] == stream.window.max_own + 2 * 60


def test_the_next_stream_takes_over_the_window_of_one_that_ended() -> None:
    spare = SpareWindow()
    first, beside = _opened(spare), _opened(spare)
    for stream in (first, beside):
        stream.begin(5)
        stream.commit()
    place = first._store.data_ptr()
    first._store.fill_(float("nan"))  # what it leaves behind must never be read
    assert beside._store.data_ptr() != place
    del stream, first
    again, fresh = _opened(spare), _opened()
    for chunk in range(5):
        found = []
        for stream in (again, fresh):
            stream.begin(25)
            found.append(stream.memory(0).attend(0, *_rows(50, seed=chunk)))
            stream.commit()
        assert torch.equal(*found)
    assert again._store.data_ptr() == place


def test_a_spare_window_that_does_not_fit_is_let_go() -> None:
    spare = SpareWindow()
    empty = torch.empty(1, 1, 2, 4, 0, 16)
    for kept, wanted in ((torch.empty(1, 1, 2, 4, 100, 16), 101), (torch.empty(1, 1, 2, 4, 201, 16), 100)):
        spare.keep([kept])
        assert spare.take(empty, wanted) is empty
        assert spare.take(empty, 100) is empty
    spare.keep([torch.empty(1, 1, 2, 4, 100, 16, dtype=torch.float16)])
    assert spare.take(empty, 100) is empty


def test_a_voice_keeps_its_prompts_window() -> None:
    spare = SpareWindow()
    like = torch.empty(0)
    prompt = FlowStream(CONFIG, None, num_steps=1, max_codes=100, like=like, spare=spare)
    prompt.begin(80)
    prompt.memory(0).attend(0, *_rows(160, seed=99))
    prompt.commit()
    voice = prompt.as_voice(torch.zeros(CONFIG.mel_dim))
    del prompt
    assert spare.take(like, 160) is like
    assert voice.num_frames == 160
