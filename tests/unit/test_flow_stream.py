"""What a stream of the flow remembers, and how it attends to it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cadence.models.dit_memory import scaled_attention
from cadence.models.flow_config import DiTConfig, EncoderConfig, FlowConfig
from cadence.models.flow_stream import FRAMES, FlowMemory, FlowStream
from cadence.models.frame_store import SpareWindow

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
    """Queries, keys and values [G, n, heads, d]."""
    generator = torch.Generator().manual_seed(seed)
    shape = (CONFIG.groups, count, CONFIG.dit.num_heads, CONFIG.dit.head_dim)
    return [torch.randn(shape, generator=generator) for _ in range(3)]


def _opened(spare: SpareWindow | None = None, memory: FlowMemory | None = None) -> FlowStream:
    """A stream of a voice of 160 frames, which later chunks see in part."""
    like = torch.empty(0)
    prompt = FlowStream(CONFIG, None, num_steps=1, max_codes=100, like=like)
    prompt.begin(80)
    prompt.memory(0).attend(0, *_rows(160, seed=99))
    prompt.commit()
    voice = prompt.as_voice(torch.zeros(CONFIG.mel_dim))
    return FlowStream(CONFIG, voice, num_steps=1, max_codes=100, like=like, memory=memory, spare=spare)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_was_before_is_what_attention_saw(dtype: torch.dtype) -> None:
    """`past` and `retain`, for who computes all layers at once, beside `attend`."""
    memory = FlowMemory(dtype=dtype)
    by_layer, at_once = _opened(memory=memory), _opened(memory=memory)
    for chunk, count in enumerate((5, 20, 60, 25, 7, 25, 40, 25)):
        rows = _rows(2 * count, seed=chunk)
        for stream in (by_layer, at_once):
            stream.begin(count)
        found = by_layer.memory(0).attend(0, *rows)
        seen = [
            torch.cat([*(run[0, kind] for run in at_once.memory(0).past()), rows[1 + kind]], dim=1)
            for kind in (0, 1)
        ]
        assert torch.allclose(
            scaled_attention(rows[0], *seen), found, atol=1e-5 if dtype == torch.float32 else 2e-3
        )
        at_once.memory(0).retain(torch.zeros(1, 2, CONFIG.groups, 2, CONFIG.dit.hidden), rows[1:])
        for stream in (by_layer, at_once):
            stream.commit()
    assert seen[0].shape[1] > 160 + 2 * 25


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
    assert stream._store.shape[FRAMES] == stream.window.max_own + 2 * 60


def test_the_next_stream_takes_over_the_window_of_one_that_ended() -> None:
    spare = SpareWindow(FRAMES)
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
    spare = SpareWindow(FRAMES)

    def window(num_frames: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(1, 1, 2, 2, num_frames, 2, 16, dtype=dtype)

    empty = window(0)
    for kept, wanted in ((window(100), 101), (window(201), 100)):
        spare.keep([kept])
        assert spare.take(empty, wanted) is empty
        assert spare.take(empty, 100) is empty
    spare.keep([window(100, torch.float16)])
    assert spare.take(empty, 100) is empty


def test_a_voice_keeps_its_prompts_window() -> None:
    spare = SpareWindow(FRAMES)
    like = torch.empty(0)
    prompt = FlowStream(CONFIG, None, num_steps=1, max_codes=100, like=like, spare=spare)
    prompt.begin(80)
    prompt.memory(0).attend(0, *_rows(160, seed=99))
    prompt.commit()
    voice = prompt.as_voice(torch.zeros(CONFIG.mel_dim))
    del prompt
    assert spare.take(like, 160) is like
    assert voice.num_frames == 160
