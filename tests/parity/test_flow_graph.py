"""Solver steps replayed from a capture: the mel of the eager ones, in any batch, at any point of a stream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import flow_kit
import pytest
import torch
from torch import Tensor

from cadence.config import Token2WavConfig
from cadence.models import flow_graph
from cadence.models.device_graph import CudaGraphs, GraphBackend
from cadence.models.flow import Flow, load_flow
from cadence.models.flow_sampler import FlowSampler
from cadence.models.flow_stream import FlowMemory
from cadence.models.noise import NoiseStrip
from cadence.token2wav import local
from graph_kit import FakeGraphs

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
LENGTHS = (130, 118, 71)  # codes of three streams that start together


@pytest.fixture(scope="module", params=DEVICES)
def flow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Flow:
    folder = flow_kit.write_flow(tmp_path_factory.mktemp("flow"))
    flow = load_flow(folder, device=request.param)
    flow.estimator.graphs = None  # ONNX Runtime's, which a GPU has not: the captured step is torch's own
    return flow


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow_graph, "PATIENCE", 0)


def sampler_of(
    flow: Flow, *, graphs: GraphBackend | None = None, memory: FlowMemory | None = None
) -> FlowSampler:
    device = flow.encoder_proj.weight.device
    return FlowSampler(flow, num_steps=4, noise=NoiseStrip(80, device=device), memory=memory, graphs=graphs)


def backend_of(flow: Flow) -> GraphBackend:
    device = flow.encoder_proj.weight.device
    return CudaGraphs(device) if device.type == "cuda" else FakeGraphs()


def render(sampler: FlowSampler) -> list[Tensor]:
    """Three streams of two voices, whose chunks go through together while they have any."""
    voices = [sampler.prepare(*flow_kit.prompt(n, seed=n)) for n in (30, 61)]
    codes = [flow_kit.draw(n, seed=n) for n in LENGTHS]
    streams = [sampler.open(voices[i % 2]) for i in range(len(codes))]
    plans = [flow_kit.schedule(len(part)) for part in codes]
    mels: list[list[Tensor]] = [[] for _ in codes]
    while any(plans):
        batch = [i for i, plan in enumerate(plans) if plan]
        chunks = [plans[i].pop(0) for i in batch]
        parts = [codes[i][start:stop] for i, (start, stop, _) in zip(batch, chunks, strict=True)]
        found = sampler.step([streams[i] for i in batch], parts, [last for *_, last in chunks])
        for i, mel in zip(batch, found, strict=True):
            mels[i].append(mel)
    return [torch.cat(part) for part in mels]


def assert_close(found: list[Tensor], expected: list[Tensor], relative: float) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert (one - other).abs().max() < relative * other.abs().max()


def captured(sampler: FlowSampler) -> tuple[int, int]:
    assert sampler.graphs is not None
    assert not sampler.graphs.graphs.failed
    return sampler.graphs.graphs.num_captures, sampler.graphs.graphs.num_replays


def test_replayed_equals_eager(flow: Flow) -> None:
    replayed = sampler_of(flow, graphs=backend_of(flow))
    assert_close(render(replayed), render(sampler_of(flow)), 5e-5)
    captures, replays = captured(replayed)
    assert captures < replays / 3


@pytest.mark.parametrize(
    "memory", [FlowMemory(dtype=torch.float16), FlowMemory(max_frames=30)], ids=["float16", "short window"]
)
def test_replayed_equals_eager_with_a_smaller_memory(flow: Flow, memory: FlowMemory) -> None:
    replayed = sampler_of(flow, graphs=backend_of(flow), memory=memory)
    # Where a key falls on the border of two float16 numbers, the last digit decides.
    tolerance = 2e-3 if memory.dtype else 5e-5
    assert_close(render(replayed), render(sampler_of(flow, memory=memory)), tolerance)
    assert captured(replayed)[1] > 0


def test_chunks_that_differ_and_prompts_run_eagerly(flow: Flow) -> None:
    sampler = sampler_of(flow, graphs=backend_of(flow))
    voice = sampler.prepare(*flow_kit.prompt(30))
    assert captured(sampler) == (0, 0)
    streams = [sampler.open(voice), sampler.open(voice)]
    sampler.step(streams, [flow_kit.draw(n, seed=n) for n in (8, 9)], [False, False])
    assert captured(sampler) == (0, 0)
    sampler.step(streams, [flow_kit.draw(8, seed=n) for n in (1, 2)], [False, False])
    assert captured(sampler) == (1, 4)


def test_a_shape_is_captured_when_it_has_come_often_enough(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_graph, "PATIENCE", 5)
    sampler = sampler_of(flow, graphs=backend_of(flow))
    stream = sampler.open(sampler.prepare(*flow_kit.prompt(30)))
    sampler.step([stream], [flow_kit.draw(8, seed=1)], [False])
    assert captured(sampler) == (0, 0)
    sampler.step([stream], [flow_kit.draw(8, seed=2)], [False])
    assert captured(sampler) == (1, 3)


def test_windows_are_shared_by_shapes_and_freed_with_the_last(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = sampler_of(flow, graphs=backend_of(flow))
    graphs = sampler.graphs
    assert graphs is not None
    voice = sampler.prepare(*flow_kit.prompt(30))
    for count in (8, 9):
        sampler.step([sampler.open(voice)], [flow_kit.draw(count, seed=1)], [False])
    assert (len(graphs.graphs), list(graphs._windows)) == (2, [(0, 128)])
    monkeypatch.setattr(graphs.graphs, "_max_shapes", 1)
    long = sampler.prepare(*flow_kit.prompt(70))
    sampler.step([sampler.open(long)], [flow_kit.draw(8, seed=1)], [False])
    assert (len(graphs.graphs), list(graphs._windows)) == (1, [(0, 256)])


def test_when_a_capture_fails_streams_go_on_eagerly(flow: Flow) -> None:
    backend = FakeGraphs(fails=True)
    sampler = sampler_of(flow, graphs=backend)
    expected = render(sampler_of(flow))
    for one, other in zip(render(sampler), expected, strict=True):
        assert torch.equal(one, other)
    assert (backend.num_captures, backend.num_replays) == (1, 0)


def test_a_failed_step_can_be_run_again(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, eager = sampler_of(flow, graphs=backend_of(flow)), sampler_of(flow)
    codes = flow_kit.draw(60, seed=5)
    mels = []
    for one in (sampler, eager):
        stream, parts = one.open(one.prepare(*flow_kit.prompt(30))), []
        for start, stop, last in flow_kit.schedule(len(codes)):
            if one is sampler:
                with monkeypatch.context() as patch:
                    calls = iter(range(2))  # the third of the four steps fails
                    give = flow_graph.EstimatorStep.give
                    patch.setattr(
                        flow_graph.EstimatorStep,
                        "give",
                        lambda step, memories, calls=calls, give=give: (next(calls), give(step, memories)),
                    )
                    with pytest.raises(StopIteration):
                        one.step([stream], [codes[start:stop]], [last])
            parts += one.step([stream], [codes[start:stop]], [last])
        mels.append(torch.cat(parts))
    assert_close(mels[:1], mels[1:], 5e-5)


@pytest.mark.parametrize("enforce_eager", [False, True])
def test_the_stage_captures_unless_told_otherwise(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch, enforce_eager: bool
) -> None:
    asked: list[bool] = []

    def backend(device: torch.device, *, enforce_eager: bool) -> GraphBackend | None:
        asked.append(enforce_eager)
        return None if enforce_eager else FakeGraphs()

    monkeypatch.setattr(local, "graph_backend", backend)
    config = replace(Token2WavConfig(device="cpu"), enforce_eager=enforce_eager)
    sampler = local.load_runner(tiny_checkpoint, config).sampler
    assert asked == [enforce_eager] and (sampler.graphs is None) is enforce_eager
