"""Steps of fixed shape, captured once and replayed: what a CUDA graph needs of the code around it.

A step holds every tensor it reads and writes. Its inputs are filled in place, then the captured work runs
again on the same addresses: no Python, no allocation and one launch. Capture and replay stand behind a
protocol, so that tests run the same steps on a CPU, under a fake that replays what was recorded. Source of
the rules: the CUDA semantics notes of PyTorch, "CUDA Graphs".
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

import torch

__all__ = ["CudaGraphs", "FixedStep", "GraphBackend", "StepGraphs", "graph_backend"]

_log = logging.getLogger(__name__)

_NUM_WARM_UPS = 2  # libraries pick kernels and allocate work space in their first calls, never in a capture


class FixedStep(Protocol):
    """Work of one shape."""

    def run(self) -> None:
        """Compute the outputs held from the inputs held. Running it twice must do no more than once: warm-up,
        capture and replay all see the same inputs. No value may reach the host, or come from it."""
        ...


class GraphBackend(Protocol):
    """Turns work into something that replays it."""

    def capture(self, run: Callable[[], object]) -> Callable[[], None]:
        """Record `run`; what is returned does the same work again on the same memory.

        Raises:
            RuntimeError: the work cannot be captured, or memory is short.
        """
        ...


class CudaGraphs:
    """CUDA graphs of one device. They share one pool of memory for what lives within a step, so no tensor
    that a step allocates may be read after it: outputs go to tensors from before the capture."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        # One for all captures: libraries keep a work space for every stream they have seen.
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def capture(self, run: Callable[[], object]) -> Callable[[], None]:
        """See `GraphBackend.capture`. Other threads may use the device meanwhile."""
        current, side = torch.cuda.current_stream(self._device), self._side
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_NUM_WARM_UPS):
                run()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # "thread_local": the other stage's thread may allocate or wait while this one captures.
        with torch.cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode="thread_local"):
            run()
        replay: Callable[[], None] = graph.replay
        return replay


def graph_backend(device: torch.device, *, enforce_eager: bool) -> GraphBackend | None:
    """What captures steps on a device; None where they run eagerly: on any but CUDA, or when told to."""
    return CudaGraphs(device) if device.type == "cuda" and not enforce_eager else None


S = TypeVar("S", bound=FixedStep)


class StepGraphs(Generic[S]):
    """Captured steps by shape, the least recently used making room for new ones.

    The first capture that fails is the last: its reason is logged, and `run` declines from then on.
    """

    def __init__(self, backend: GraphBackend, *, name: str, max_shapes: int) -> None:
        """`name` is for the log."""
        self._backend, self._name, self._max_shapes = backend, name, max_shapes
        self._steps: OrderedDict[Hashable, tuple[S, Callable[[], None]]] = OrderedDict()
        self.num_captures = self.num_replays = 0
        self.failed = False

    def __len__(self) -> int:
        return len(self._steps)

    def run(self, key: Hashable, make: Callable[[], S], load: Callable[[S], object]) -> S | None:
        """Run the step of a shape; `load` fills its inputs, and must fill all that `make` left open.

        Returns:
            The step, whose outputs hold until its next run; None: nothing has changed, run it eagerly.
        """
        if self.failed:
            return None
        held = self._steps.get(key)
        if held is None:
            held = self._capture(key, make, load)
            if held is None:
                return None
        else:
            self._steps.move_to_end(key)
            load(held[0])
        step, replay = held
        replay()
        self.num_replays += 1
        return step

    def _capture(
        self, key: Hashable, make: Callable[[], S], load: Callable[[S], object]
    ) -> tuple[S, Callable[[], None]] | None:
        while len(self._steps) >= self._max_shapes:  # before, so that its memory can be taken again
            self._steps.popitem(last=False)
        try:
            step = make()
            load(step)
            held = step, self._backend.capture(step.run)
        except RuntimeError as error:
            self.failed = True
            self._steps.clear()
            _log.warning("%s steps run eagerly from now on: capturing one failed: %s", self._name, error)
            return None
        self.num_captures += 1
        self._steps[key] = held
        return held
