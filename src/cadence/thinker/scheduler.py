"""Which tokens of which sequences the next step computes. Pure policy: no tensors, no clocks.

Each step runs, in this order, within `max_num_batched_tokens`:

1. every sequence that is writing its answer (one or two new ids each), but not those whose speech is far
   ahead of its listener while another's runs dry (`thinker.pacing`);
2. chunks of prompts already begun, oldest first;
3. sequences that wait, in order of arrival, as far as rows and KV memory allow.

A prompt's memory is taken whole at admission, so only answers can run out of it. Then the newest running
sequence gives its memory back and waits, keeping its ids: computed again later, it goes on as if
nothing had happened. The oldest is never put back, so there is always progress.

A sequence starts behind the blocks of its beginning that an earlier one has published, and publishes its
own once an id was sampled behind them: what lies before a finite result is itself finite.
"""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass

from cadence.errors import ConfigError
from cadence.thinker.blocks import BlockPool
from cadence.thinker.pacing import lead_s, resting
from cadence.thinker.sequence import Sequence

__all__ = ["Chunk", "Scheduler"]

MAX_NEW_IDS = 2  # a sampled id and the forced one after it


@dataclass(frozen=True, slots=True)
class Chunk:
    """`count` ids of a sequence, from `start` on, to compute in one step."""

    sequence: Sequence
    start: int
    count: int

    @property
    def is_last(self) -> bool:
        """Whether nothing stays pending after it: the step samples a new id."""
        return self.start + self.count == len(self.sequence.ids)


class Scheduler:
    """Waiting and running sequences, both in order of arrival."""

    def __init__(
        self,
        pool: BlockPool,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        speech_ahead_s: float = math.inf,
    ) -> None:
        """
        Args:
            speech_ahead_s: how far speech is written ahead while another listener waits.

        Raises:
            ConfigError: a step could not hold the new ids of every running sequence.
        """
        if max_num_seqs < 1 or max_num_batched_tokens < MAX_NEW_IDS * max_num_seqs:
            raise ConfigError(
                f"max_num_batched_tokens ({max_num_batched_tokens}) must be at least {MAX_NEW_IDS} x "
                f"max_num_seqs ({max_num_seqs}), and max_num_seqs at least 1."
            )
        self.pool = pool
        self.max_num_batched_tokens = max_num_batched_tokens
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self._speech_ahead_s = speech_ahead_s
        self._free_rows = list(range(max_num_seqs - 1, -1, -1))

    @property
    def has_work(self) -> bool:
        """Whether any sequence is unfinished."""
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; it must fit the pool when it runs alone."""
        insort(self.waiting, sequence, key=lambda item: item.arrival)

    def remove(self, sequence: Sequence) -> None:
        """Forget a finished, failed or aborted sequence and free what it holds."""
        if sequence in self.running:
            self.running.remove(sequence)
            self._release(sequence)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def publish(self, sequence: Sequence) -> None:
        """Let others share the full blocks of a sequence; call when an id was sampled behind them."""
        if sequence.prefix_keys is None:
            return
        num_full = sequence.num_computed // self.pool.block_size
        if num_full > sequence.num_published:
            keys = list(sequence.prefix_keys.of(sequence.ids, num_full))
            for number in range(sequence.num_published, num_full):
                self.pool.publish(sequence.blocks[number], keys[number])
            sequence.num_published = num_full

    def schedule(self, now_s: float = 0.0, prefill_tokens: int | None = None) -> list[Chunk]:
        """Plan one step; takes memory and rows, preempts. Empty only when nothing is unfinished, or when all
        that was to run has just been put back.

        Args:
            now_s: time of any clock.
            prefill_tokens: ids of prompts that may join a step in which answers are written; None = as many
                as fit.
        """
        chunks, preempted = self._plan_answers(self._resting(now_s))
        budget = self.max_num_batched_tokens - sum(chunk.count for chunk in chunks)
        if chunks and prefill_tokens is not None:
            budget = min(budget, prefill_tokens)
        for sequence in self.running:
            if sequence.in_prefill and budget:
                budget -= self._add_prefill(chunks, sequence, budget)
        while budget and not preempted and (admitted := self._admit()):
            budget -= self._add_prefill(chunks, admitted, budget)
        return chunks

    def _resting(self, now_s: float) -> set[int]:
        """Arrivals of running sequences that skip this step."""
        leads = {
            sequence.arrival: lead_s(sequence.num_codes, sequence.speaking_since_s, now_s)
            for sequence in self.running
            if sequence.is_spoken
        }
        return resting(leads, self._speech_ahead_s)

    def _plan_answers(self, resting: set[int]) -> tuple[list[Chunk], bool]:
        chunks: list[Chunk] = []
        preempted = False
        for sequence in list(self.running):
            if sequence.row is None or sequence.in_prefill or sequence.arrival in resting:
                continue
            while not self.pool.grow(sequence.blocks, len(sequence.ids)):
                newest = self.running[-1]
                self._preempt(newest)
                preempted = True
                if newest is sequence:
                    break
            else:
                chunks.append(Chunk(sequence, sequence.num_computed, sequence.num_pending))
        return chunks, preempted

    def _add_prefill(self, chunks: list[Chunk], sequence: Sequence, budget: int) -> int:
        count = min(sequence.num_pending, budget)
        chunks.append(Chunk(sequence, sequence.num_computed, count))
        return count

    def _admit(self) -> Sequence | None:
        """Start the oldest waiting sequence if a row and memory for all its ids are free.

        One spare block for each sequence already running keeps it from being preempted at once.
        """
        if not self.waiting or not self._free_rows:
            return None
        pool, sequence = self.pool, self.waiting[0]
        found = self._find_prefix(sequence)
        missing = pool.blocks_for(len(sequence.ids)) - len(found)
        if missing + pool.num_free_among(found) + len(self.running) > pool.num_free:
            return None
        pool.share(sequence.blocks, found)
        pool.grow(sequence.blocks, len(sequence.ids))
        self.waiting.pop(0)
        sequence.row = self._free_rows.pop()
        sequence.num_prefill = len(sequence.ids)
        sequence.num_published = len(found)
        sequence.num_computed = len(found) * pool.block_size
        if not sequence.num_admissions:
            sequence.num_cached = min(sequence.num_computed, sequence.num_prompt)
        sequence.num_admissions += 1
        self.running.append(sequence)
        return sequence

    def _find_prefix(self, sequence: Sequence) -> list[int]:
        """Blocks that hold the beginning of a sequence; its last id is always computed, to sample from."""
        if sequence.prefix_keys is None:
            return []
        num_full = (len(sequence.ids) - 1) // self.pool.block_size
        return self.pool.find(sequence.prefix_keys.of(sequence.ids, num_full))

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._release(sequence)
        sequence.num_computed = sequence.num_published = 0
        self.num_preemptions += 1
        self.add(sequence)

    def _release(self, sequence: Sequence) -> None:
        self.pool.release(sequence.blocks)
        if sequence.row is not None:
            self._free_rows.append(sequence.row)
            sequence.row = None
