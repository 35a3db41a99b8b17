"""The DiT's part of a solver step as captured graphs, for batches of streams whose chunks are alike.

A captured step cannot follow each stream to its own memory. So a stream's window is copied into a fixed one
before the step (its own frames and the voice's, wherever they lie) and the new keys and values back out
after it: a few copies a stream in place of some forty launches a layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from cadence.models.device_graph import GraphBackend, StepGraphs
from cadence.models.dit import DiT, Modulation
from cadence.models.dit_memory import CONV_HISTORY, DiTSpan
from cadence.models.flow_stream import StreamMemory
from cadence.models.rows import attend

__all__ = ["FlowGraphs"]

WINDOW_STEP = 128  # windows are padded to multiples of so many frames
MAX_STREAMS = 8
MAX_SHAPES = 16
PATIENCE = 30  # eager calls before a shape is captured: three chunks of it, so an odd last one never is


class FixedMemory:
    """A stream's `DiTMemory` in tensors that stay where they are.

    `window` [depth, 2, G, heads, W, d] holds what came before, padded, as products like it; `fresh`
    [depth, 2, G, n, heads, d] takes the new frames as the stream keeps them.
    """

    def __init__(self, window: Tensor, like: StreamMemory, frames: int) -> None:
        depth, _, groups, heads, length, dim = window.shape
        self._window, self._length = window, length
        self._bias = window.new_zeros(length + frames)
        self._fresh = window.new_zeros((depth, 2, groups, frames, heads, dim), dtype=like.dtype)
        self._conv, self._next_conv = like.new_conv(), like.new_conv()

    def load(self, memory: StreamMemory) -> None:
        """Take in what the stream remembers."""
        past = memory.copy_past(self._window, self._conv)
        self._bias[:past] = 0.0
        self._bias[past : self._length] = float("-inf")

    def give(self, memory: StreamMemory) -> None:
        """Write the new frames into the stream's own memory."""
        memory.write(self._fresh, self._next_conv)

    def attend(self, layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """See `DiTMemory.attend`."""
        groups, count, heads, dim = queries.shape
        fresh = self._fresh[layer]
        fresh[0].copy_(keys)
        fresh[1].copy_(values)
        past = self._window[layer].flatten(1, 2)
        new = fresh.to(self._window.dtype).transpose(2, 3).flatten(1, 2)
        scaled = (queries * dim**-0.5).transpose(1, 2).flatten(0, 1)
        found = attend(scaled, [(past[0], past[1]), (new[0], new[1])], self._bias)
        return found.view(groups, heads, count, dim).transpose(1, 2)

    def precede(self, layer: int, conv: int, rows: Tensor) -> Tensor:
        """See `DiTMemory.precede`."""
        padded = torch.cat([self._conv[layer, conv], rows], dim=1)
        self._next_conv[layer, conv].copy_(padded[:, -CONV_HISTORY:])
        return padded


class EstimatorStep:
    """The estimator over `memories`, one for each stream of the batch."""

    def __init__(
        self, estimator: DiT, modulation: Modulation, memories: Sequence[FixedMemory], span: DiTSpan
    ) -> None:
        """`modulation` and `span` give sizes."""
        self._estimator, self._memories = estimator, memories
        config, like = estimator.config, modulation.final
        num_rows = span.groups * span.frames * len(memories)
        self._x = like.new_zeros(num_rows, config.out_channels)
        self._projected = like.new_zeros(num_rows, config.hidden)
        self._modulation = Modulation(*(torch.zeros_like(part) for part in modulation))
        self._spans = [DiTSpan(span.groups, span.frames, memory) for memory in memories]
        self.velocity = torch.zeros_like(self._x)

    def load(
        self, x: Tensor, projected: Tensor, modulation: Modulation, memories: Sequence[StreamMemory]
    ) -> None:
        """Fill the inputs."""
        self._x.copy_(x)
        self._projected.copy_(projected)
        for fixed_part, part in zip(self._modulation, modulation, strict=True):
            fixed_part.copy_(part)
        for fixed, memory in zip(self._memories, memories, strict=True):
            fixed.load(memory)

    def run(self) -> None:
        """Leave the velocities [R, 80] in `velocity`, the new frames in the memories."""
        self.velocity.copy_(self._estimator(self._x, self._projected, self._modulation, self._spans))

    def give(self, memories: Sequence[StreamMemory]) -> None:
        """Write the new frames into the streams' own memories."""
        for fixed, memory in zip(self._memories, memories, strict=True):
            fixed.give(memory)


class FlowGraphs:
    """An estimator that runs captured where it can: call it as `DiT.forward`.

    Streams must come from one thread; prompts and whole utterances, which are always eager, from any.
    """

    def __init__(self, backend: GraphBackend, estimator: DiT) -> None:
        self._estimator = estimator
        self.graphs: StepGraphs[EstimatorStep] = StepGraphs(backend, name="flow", max_shapes=MAX_SHAPES)
        self._calls: Counter[tuple[object, ...]] = Counter()
        # Steps of many shapes share the windows, which are the largest part of them; the last one frees them.
        self._windows: WeakValueDictionary[tuple[int, int], Tensor] = WeakValueDictionary()

    def __call__(
        self, x: Tensor, projected: Tensor, modulation: Modulation, spans: Sequence[DiTSpan]
    ) -> Tensor:
        """See `DiT.forward`; the velocities are valid until the next call."""
        memories = [span.memory for span in spans if isinstance(span.memory, StreamMemory)]
        alike = len({(span.groups, span.frames) for span in spans}) == 1
        if len(memories) == len(spans) <= MAX_STREAMS and alike and all(m.has_voice for m in memories):
            length = -(-max(memory.num_past for memory in memories) // WINDOW_STEP) * WINDOW_STEP
            step = self._run(x, projected, modulation, spans[0], memories, length)
            if step is not None:
                step.give(memories)
                return step.velocity
        velocity: Tensor = self._estimator(x, projected, modulation, spans)
        return velocity

    def _run(
        self,
        x: Tensor,
        projected: Tensor,
        modulation: Modulation,
        span: DiTSpan,
        memories: Sequence[StreamMemory],
        length: int,
    ) -> EstimatorStep | None:
        key = (span.groups, span.frames, len(memories), length)
        self._calls[key] += 1
        if self._calls[key] <= PATIENCE:
            return None

        def make() -> EstimatorStep:
            windows = [self._window(place, length, memories[0]) for place in range(len(memories))]
            fixed = [FixedMemory(window, memories[0], span.frames) for window in windows]
            return EstimatorStep(self._estimator, modulation, fixed, span)

        return self.graphs.run(key, make, lambda step: step.load(x, projected, modulation, memories))

    def _window(self, place: int, length: int, like: StreamMemory) -> Tensor:
        """The fixed window of the batch's stream at `place`."""
        window = self._windows.get((place, length))
        if window is None:
            # Zeros: padding gets a weight of zero, and must be finite for that to help.
            window = self._windows[place, length] = like.new_window(length)
        return window
