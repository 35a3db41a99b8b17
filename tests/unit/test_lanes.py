"""What runs in lanes gives what it gives alone."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from cadence.models.dit import DiT
from cadence.models.dit_lanes import DiTLanes
from cadence.models.dit_memory import CONV_HISTORY, DiTSpan, NoDiTMemory
from cadence.models.flow_config import DiTConfig
from cadence.models.flow_stream import StreamMemory
from cadence.models.frame_window import WindowPlan
from cadence.models.hift import HiFT, HiFTConfig
from cadence.models.lanes import Lanes

HIDDEN, HEADS, DIM, DEPTH = 32, 2, 16, 2
CONFIG = DiTConfig(
    in_channels=320, out_channels=80, hidden=HIDDEN, depth=DEPTH, num_heads=HEADS, head_dim=DIM, mlp_ratio=2.0
)
NOTHING = np.empty(0, np.int64)


def test_lanes_run_side_by_side_and_keep_the_order() -> None:
    met = threading.Barrier(2, timeout=10)
    threads = torch.get_num_threads()

    def part(name: str) -> Callable[[], tuple[str, int]]:
        def run() -> tuple[str, int]:
            met.wait()
            return name, torch.get_num_threads()

        return run

    assert Lanes(2).run([part("a"), part("b")]) == [("a", 1), ("b", 1)]
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("at_fault", [0, 1])
def test_a_failure_leaves_no_lane_at_work(at_fault: int) -> None:
    ended = threading.Event()

    def fails() -> None:
        raise ValueError("no")

    threads = torch.get_num_threads()
    parts = [fails, ended.set] if at_fault == 0 else [ended.set, fails]
    with pytest.raises(ValueError, match="no"):
        Lanes(2).run(parts)
    assert ended.is_set() and torch.get_num_threads() == threads


def test_threads_are_shared_out() -> None:
    assert [(Lanes(n).count, Lanes(n).threads_each) for n in (1, 2, 4)] == [(1, 1), (2, 1), (2, 2)]
    assert (Lanes(4, 1).count, Lanes(4, 1).threads_each) == (1, 4)


def _memory(frames: int, past: int, prompt: int) -> StreamMemory:
    generator = torch.Generator().manual_seed(frames)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    plan = WindowPlan(
        slots=np.arange(past, past + frames),
        move_from=NOTHING,
        move_to=NOTHING,
        used=past + frames,
        prompt_runs=((0, prompt),),
        noise_offset=0,
    )
    conv = draw(2, DEPTH, 2, 2, CONV_HISTORY, HIDDEN)
    own = draw(DEPTH, 2, 2, past + frames + 3, HEADS, DIM)
    return StreamMemory(own, draw(DEPTH, 2, 2, prompt, HEADS, DIM), conv[0], conv[1], plan)


@pytest.mark.parametrize("with_graphs", [True, False])
@pytest.mark.parametrize("frames", [(7,), (5, 1, 4)])
@torch.inference_mode()
def test_the_estimator_in_lanes(frames: tuple[int, ...], with_graphs: bool) -> None:
    with torch.inference_mode(False):
        torch.manual_seed(0)
        dit = DiT(CONFIG).eval()
        for parameter in dit.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    if with_graphs:
        dit.load_graph(1)
    rows = 2 * sum(frames)
    x, projected = torch.randn(rows, CONFIG.out_channels), torch.randn(rows, HIDDEN)
    (modulation,) = dit.modulation(torch.tensor([0.3]))
    found, memories = [], []
    for estimator in (dit, DiTLanes(dit, Lanes(2))):
        memories.append([_memory(n, past=4, prompt=9) for n in frames])
        spans = [DiTSpan(2, n, memory) for n, memory in zip(frames, memories[-1], strict=True)]
        found.append(estimator(x, projected, modulation, spans))
    assert torch.allclose(found[1], found[0], atol=1e-5 * float(found[0].abs().max()))
    for alone, in_lanes in zip(*memories, strict=True):
        assert torch.allclose(in_lanes._own, alone._own, atol=1e-4)
        assert torch.allclose(in_lanes._next_conv, alone._next_conv, atol=1e-4)


@torch.inference_mode()
def test_a_whole_utterance_and_one_without_guidance() -> None:
    with torch.inference_mode(False):
        torch.manual_seed(0)
        dit = DiT(CONFIG).eval()
    (modulation,) = dit.modulation(torch.tensor([0.3]))
    x, projected = torch.randn(12, CONFIG.out_channels), torch.randn(12, HIDDEN)
    lanes = DiTLanes(dit, Lanes(2))
    for spans in ([DiTSpan(2, 6, NoDiTMemory())], [DiTSpan(1, 12, NoDiTMemory())]):
        expected = dit(x, projected, modulation, spans)
        assert torch.allclose(lanes(x, projected, modulation, spans), expected, atol=1e-5)


@pytest.mark.parametrize("num_frames", [3, 30])  # too short for lanes in the first stage, and long enough
@pytest.mark.parametrize("num_streams", [1, 2])
def test_the_vocoder_in_lanes(num_frames: int, num_streams: int) -> None:
    torch.manual_seed(0)
    model = HiFT(HiFTConfig(base_channels=16, f0_channels=8, kernels=(3, 7), dilations=(1, 3)))
    mel, source = torch.randn(num_streams, 80, num_frames), torch.randn(num_streams, 480 * num_frames)
    found = []
    with torch.inference_mode():
        for threads in (1, 2):
            model.prepare_inference(threads)
            found.append(model.synthesise(mel, source))
    assert torch.allclose(found[1], found[0], atol=1e-5)
