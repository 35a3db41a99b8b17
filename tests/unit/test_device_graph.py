"""Captured steps: replayed from their inputs alone, bounded in number, and eager when that fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from cadence.models.device_graph import CudaGraphs, FixedStep, GraphBackend, StepGraphs, graph_backend
from graph_kit import FakeGraphs


class Affine:
    """x * 2 + 1 of a fixed length."""

    def __init__(self, length: int, device: str = "cpu") -> None:
        self.x = torch.zeros(length, device=device)
        self.y = torch.zeros(length, device=device)
        self.inner: Tensor | None = None

    def run(self) -> None:
        self.inner = self.x * 2
        self.y.copy_(self.inner + 1)


def run(graphs: StepGraphs[Affine], x: Tensor) -> Tensor | None:
    step = graphs.run(len(x), lambda: Affine(len(x), x.device.type), lambda step: step.x.copy_(x))
    return None if step is None else step.y.clone()


def some_graphs(backend: GraphBackend | None = None, max_shapes: int = 2) -> StepGraphs[Affine]:
    return StepGraphs(backend or FakeGraphs(), name="affine", max_shapes=max_shapes)


def test_a_shape_is_captured_once_and_replayed_on_new_inputs() -> None:
    graphs = some_graphs()
    for value in (1.0, -3.0, 7.0):
        x = torch.full((4,), value)
        assert torch.equal(run(graphs, x), x * 2 + 1)  # type: ignore[arg-type]
    assert (graphs.num_captures, graphs.num_replays) == (1, 3)


def test_the_least_recently_used_shape_makes_room() -> None:
    graphs = some_graphs()
    for length in (1, 2, 1, 3):  # 3 takes the place of 2
        run(graphs, torch.ones(length))
    assert (len(graphs), graphs.num_captures) == (2, 3)
    run(graphs, torch.ones(1))
    assert graphs.num_captures == 3
    run(graphs, torch.ones(2))
    assert (len(graphs), graphs.num_captures) == (2, 4)


def test_a_failing_capture_is_logged_once_and_ends_capturing(caplog: pytest.LogCaptureFixture) -> None:
    backend = FakeGraphs()
    graphs = some_graphs(backend)
    assert run(graphs, torch.ones(1)) is not None
    backend.fails = True
    with caplog.at_level(logging.WARNING):
        assert run(graphs, torch.ones(2)) is None
        assert run(graphs, torch.ones(3)) is None
        assert run(graphs, torch.ones(1)) is None
    assert (backend.num_captures, len(graphs)) == (2, 0)
    [record] = caplog.records
    assert "affine" in record.message and "not permitted" in record.message


class Step:
    def __init__(self, work: Callable[[], object]) -> None:
        self.work = work

    def run(self) -> None:
        self.work()


@pytest.mark.parametrize(
    "work",
    [
        lambda: torch.ones(2).sum().item(),
        lambda: torch.ones(2).nonzero(),
        lambda: torch.ones(3)[torch.zeros(3, dtype=torch.bool)],
        lambda: torch.tensor([1, 2]),
        lambda: bool(torch.zeros(()) > 1),
    ],
    ids=["item", "nonzero", "boolean index", "constant of the host", "condition"],
)
def test_the_fake_refuses_what_a_capture_cannot_hold(work: Callable[[], object]) -> None:
    graphs: StepGraphs[FixedStep] = StepGraphs(FakeGraphs(), name="x", max_shapes=1)
    assert graphs.run(0, lambda: Step(work), lambda step: None) is None
    assert graphs.failed


def test_the_fake_freezes_what_python_reads_and_spoils_what_a_step_allocates() -> None:
    numbers, step = [2.0], Affine(3)
    replay = FakeGraphs().capture(lambda: step.y.copy_(step.x * numbers[0]))
    step.x.fill_(1.0)
    numbers[0] = 5.0
    replay()
    assert step.y.tolist() == [2.0] * 3
    other = Affine(3)
    FakeGraphs().capture(other.run)()
    assert other.inner is not None and bool(other.inner.isnan().all())


def test_only_cuda_captures_and_only_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert graph_backend(torch.device("cpu"), enforce_eager=False) is None
    assert graph_backend(torch.device("cuda"), enforce_eager=True) is None
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    assert isinstance(graph_backend(torch.device("cuda"), enforce_eager=False), CudaGraphs)


class FakeStream:
    """Tells what waits for what."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def wait_stream(self, other: FakeStream) -> None:
        self.log.append(f"{self.name} waits for {other.name}")


def test_the_cuda_backend_warms_up_and_captures_beside_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    stage, side = FakeStream("stage", log), FakeStream("side", log)

    class Graph:
        def replay(self) -> None:
            log.append("replay")

    @contextmanager
    def on(stream: FakeStream) -> Iterator[None]:
        log.append(f"on {stream.name}")
        yield

    @contextmanager
    def capturing(graph: Graph, *, pool: str, stream: FakeStream, capture_error_mode: str) -> Iterator[None]:
        log.append(f"capture on {stream.name} into {pool}, {capture_error_mode}")
        yield
        log.append("end")

    for name, value in {
        "graph_pool_handle": lambda: "pool",
        "Stream": lambda device: side,
        "current_stream": lambda device: stage,
        "stream": on,
        "CUDAGraph": Graph,
        "graph": capturing,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    replay = CudaGraphs(torch.device("cuda")).capture(lambda: log.append("run"))
    assert log == [
        *("side waits for stage", "on side", "run", "run", "stage waits for side"),
        *("capture on side into pool, thread_local", "run", "end"),
    ]
    replay()
    assert log[-1] == "replay"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no cuda")
def test_a_cuda_graph_computes_what_the_step_computes() -> None:
    graphs = some_graphs(CudaGraphs(torch.device("cuda")), max_shapes=1)
    for length in (4, 4, 9, 4):
        x = torch.randn(length, device="cuda")
        assert torch.equal(run(graphs, x), x * 2 + 1)  # type: ignore[arg-type]
    assert (graphs.failed, graphs.num_captures) == (False, 3)
