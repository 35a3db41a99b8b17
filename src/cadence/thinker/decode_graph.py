"""Decode steps as captured graphs: a padded number of tokens, each over a padded number of blocks.

Every new token is a row of its own with its sequence's block table, whether its sequence has one or two of
them in this step: all keys are stored before any is read, and a row sees places up to its position. Rows
that pad write to a spare block which no sequence holds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cadence.models.device_graph import GraphBackend, StepGraphs
from cadence.models.step_audio import StepAudio
from cadence.models.transfers import Upload
from cadence.thinker.kv_cache import MAX_GROUPED_TOKENS, KVMemory, Span, TableAttention, span_positions

__all__ = ["DecodeGraphs"]

MAX_TOKENS = 64  # of one captured step; more are bound by computing, not by launching
MIN_BLOCKS = 8
MAX_PLACES = 1 << 17  # rows x places gathered a layer, which bounds a graph's own memory
MAX_SHAPES = 32


class DecodeStep:
    """The decoder over `num_rows` tokens that look back over `num_blocks` blocks each."""

    def __init__(self, model: StepAudio, memory: KVMemory, num_rows: int, num_blocks: int) -> None:
        self._model, self._memory = model, memory
        device = memory.device
        # One tensor for all that comes from the host: one copy a step.
        sizes = [num_rows, num_rows, num_rows, num_rows * num_blocks]
        inputs = torch.zeros(sum(sizes), dtype=torch.int64, device=device)
        self._upload = Upload(inputs)
        self._ids, self._positions, self._slots, self._tables = torch.split_with_sizes(inputs, sizes)
        self._shape = num_rows, num_blocks
        self._places = torch.arange(num_blocks * memory.block_size, device=device)
        self.hidden = torch.zeros(num_rows, model.config.hidden_size, device=device, dtype=memory.dtype)

    def load(self, ids: Sequence[int], spans: Sequence[Span]) -> None:
        """Fill the inputs with the spans' tokens, in order, and pad."""
        num_rows, num_blocks = self._shape
        memory, count = self._memory, len(ids)
        self._upload.wait()
        given, positions, slots = self._upload.array[: 3 * num_rows].reshape(3, num_rows)
        tables = self._upload.array[3 * num_rows :].reshape(num_rows, num_blocks)
        given[:count], given[count:] = ids, 0
        positions[:count], positions[count:] = span_positions(spans), 0
        slots[:count], slots[count:] = memory.slots(spans), memory.spare_block * memory.block_size
        tables[:count], tables[count:] = memory.padded_tables(spans, num_blocks), memory.spare_block
        self._upload.send()

    def run(self) -> None:
        """Embed, decode, and leave the hidden states [num_rows, hidden] in `hidden`."""
        unseen = self._places > self._positions[:, None]
        mask = torch.zeros(unseen.shape, dtype=self._memory.dtype, device=unseen.device)
        mask.masked_fill_(unseen, float("-inf"))
        attention = TableAttention(self._memory, self._slots, self._tables, mask[:, None, None])
        embeds = self._model.embed_ids(self._ids)
        self.hidden.copy_(self._model.decode(embeds, self._positions, attention))


class DecodeGraphs:
    """Runs steps that only decode; declines others."""

    def __init__(self, backend: GraphBackend, model: StepAudio, memory: KVMemory) -> None:
        self._model, self._memory = model, memory
        self.graphs: StepGraphs[DecodeStep] = StepGraphs(backend, name="decode", max_shapes=MAX_SHAPES)

    def run(self, ids: Sequence[int], spans: Sequence[Span]) -> Tensor | None:
        """Hidden states [N, hidden] of the spans' N tokens `ids`, in order, valid until the next run; None
        where this step must run eagerly: a chunk of a prompt in it, too many tokens, too long a past."""
        if max(span.count for span in spans) > MAX_GROUPED_TOKENS or len(ids) > MAX_TOKENS:
            return None
        longest = max(span.start + span.count for span in spans)
        num_rows = _padded(len(ids))
        num_blocks = max(MIN_BLOCKS, _padded(-(-longest // self._memory.block_size)))
        if num_rows * num_blocks * self._memory.block_size > MAX_PLACES:
            return None
        step = self.graphs.run(
            (num_rows, num_blocks),
            lambda: DecodeStep(self._model, self._memory, num_rows, num_blocks),
            lambda step: step.load(ids, spans),
        )
        return None if step is None else step.hidden[: len(ids)]


def _padded(count: int) -> int:
    """The power of two at or above."""
    return 1 << (count - 1).bit_length()
