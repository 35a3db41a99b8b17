"""One batched step of the network: chunks of sequences in, one sampled id for each complete one out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cadence.errors import CadenceError, StageFailed
from cadence.models.device_graph import GraphBackend
from cadence.models.step_audio import StepAudio
from cadence.models.transfers import index_on, to_device
from cadence.thinker.decode_graph import DecodeGraphs
from cadence.thinker.kv_cache import KVMemory, Span, StepAttention, order_spans, span_positions
from cadence.thinker.sampler import Sampled, SampleRow, TokenHistory, needs_history, sample
from cadence.thinker.scheduler import Chunk
from cadence.thinker.sequence import Sequence
from cadence.thinker.verbatim import Choice, Slot
from cadence.tokens import SpecialIds

__all__ = ["ChunkResult", "ThinkerRunner"]


@dataclass(frozen=True, slots=True)
class ChunkResult:
    """What a step gave one chunk: a sampled id, an error of its own, or neither (more is pending)."""

    chunk: Chunk
    sampled: Sampled | None = None
    error: CadenceError | None = None


@dataclass(frozen=True, slots=True)
class _View:
    """A range of the vocabulary to sample from, and which of it is out of bounds (bool [last - first])."""

    first: int
    last: int
    mask: Tensor | None = None


class ThinkerRunner:
    """Owns every tensor of the stage: weights, KV memory, token histories, pending audio embeddings.

    `num_ids` ids stand for something; later rows of the head are never looked at. With `graphs`, steps
    that only decode are captured and replayed; without, every step runs eagerly.
    """

    def __init__(
        self,
        model: StepAudio,
        special: SpecialIds,
        *,
        num_ids: int,
        num_blocks: int,
        block_size: int,
        max_num_seqs: int,
        graphs: GraphBackend | None = None,
    ) -> None:
        self.model = model
        self.memory = KVMemory(
            model.config,
            num_blocks=num_blocks,
            block_size=block_size,
            max_rows=max_num_seqs,
            device=model.device,
            dtype=model.dtype,
        )
        self.decode_graphs = None if graphs is None else DecodeGraphs(graphs, model, self.memory)
        self._special = special
        self._num_ids = num_ids
        self._max_num_seqs = max_num_seqs
        self._history: TokenHistory | None = None
        self._owners: list[tuple[int, int] | None] = [None] * max_num_seqs
        self._audio: dict[int, dict[int, Tensor]] = {}
        self._views: dict[Choice | None, _View] = {None: _View(0, num_ids)}

    @torch.inference_mode()
    def step(self, chunks: list[Chunk]) -> list[ChunkResult]:
        """Compute the chunks; results in any order. An error that one chunk caused is that chunk's alone."""
        failed = []
        healthy = []
        for chunk in chunks:
            try:
                self._encode_audio(chunk)
                healthy.append(chunk)
            except Exception as error:  # noqa: BLE001 - a piece of sound is one request's; the rest goes on
                failed.append(ChunkResult(chunk, error=_encoding_failed(chunk, error)))
        return failed + (self._run(healthy) if healthy else [])

    def release(self, sequence: Sequence, *, scrub: bool = False) -> None:
        """Drop what is kept for a sequence. `scrub` before its blocks are released, if they may hold NaN;
        those it has published are known to hold none, and others may be reading them."""
        self._audio.pop(sequence.arrival, None)
        own = sequence.blocks[sequence.num_published :]
        if scrub and own:
            self.memory.scrub(own)

    # -------------------------------------------------------------- one step
    def _run(self, chunks: list[Chunk]) -> list[ChunkResult]:
        spans = []
        for chunk in chunks:
            row = self._claim_row(chunk.sequence)
            spans.append(Span(row, chunk.start, chunk.count))
        hidden, packed = self._replay(chunks, spans), chunks
        if hidden is None:
            hidden, packed = self._decode(chunks, spans)
        ends = np.cumsum([chunk.count for chunk in packed]) - 1
        complete = [(chunk, int(end)) for chunk, end in zip(packed, ends, strict=True) if chunk.is_last]
        results = [ChunkResult(chunk) for chunk in packed if not chunk.is_last]
        return results + self._sample(complete, hidden)

    def _replay(self, chunks: list[Chunk], spans: list[Span]) -> Tensor | None:
        """Hidden states of the chunks' tokens, in order, from a captured step; None: no such step fits."""
        # Embeddings of sound take the place of ids: only an eager step can put them there.
        if self.decode_graphs is None or any(self._audio.get(chunk.sequence.arrival) for chunk in chunks):
            return None
        return self.decode_graphs.run(_ids(chunks), spans)

    def _decode(self, chunks: list[Chunk], spans: list[Span]) -> tuple[Tensor, list[Chunk]]:
        """Hidden states of the chunks' tokens, and the chunks in their order."""
        groups = order_spans(spans)
        order = [index for group in groups for index in group]
        packed = [chunks[index] for index in order]
        attention = StepAttention(self.memory, [[spans[index] for index in group] for group in groups])
        positions = to_device(span_positions([spans[index] for index in order]), self.model.device)
        return self.model.decode(self._embed(packed), positions, attention), packed

    def _claim_row(self, sequence: Sequence) -> int:
        """Make the per-row state this sequence's own, and tell the KV memory of new blocks."""
        row = sequence.row
        if row is None:
            raise RuntimeError(f"sequence {sequence.request_id} was scheduled without a row")
        owner = (sequence.arrival, sequence.num_admissions)
        if self._owners[row] != owner:
            self._owners[row] = owner
            self.memory.forget(row)
            if self._history is not None:
                self._history.forget(row)
        self.memory.set_blocks(row, sequence.blocks)
        return row

    def _embed(self, chunks: list[Chunk]) -> Tensor:
        """Embeddings [N, hidden] of all chunks, sound in the place of its patches."""
        embeds = self.model.embed_ids(index_on(self.model.device, _ids(chunks)))
        offset = 0
        for chunk in chunks:
            pieces = self._audio.get(chunk.sequence.arrival, {})
            for index, piece in list(pieces.items()):
                span = chunk.sequence.prompt.spans[index]
                first = max(span.start, chunk.start)
                last = min(span.start + span.count, chunk.start + chunk.count)
                if first < last:
                    place = slice(offset + first - chunk.start, offset + last - chunk.start)
                    embeds[place] = piece[first - span.start : last - span.start]
                if span.start + span.count <= chunk.start + chunk.count:
                    del pieces[index]
            offset += chunk.count
        return embeds

    def _encode_audio(self, chunk: Chunk) -> None:
        """Encode the pieces of sound that begin in this chunk; each is kept until its patches are passed."""
        prompt = chunk.sequence.prompt
        for index, (span, mel) in enumerate(zip(prompt.spans, prompt.mels, strict=True)):
            overlaps = span.start < chunk.start + chunk.count and span.start + span.count > chunk.start
            pieces = self._audio.setdefault(chunk.sequence.arrival, {}) if overlaps else {}
            if not overlaps or index in pieces:
                continue
            mels = torch.from_numpy(np.ascontiguousarray(mel, dtype=np.float32))[None].to(self.model.device)
            pieces[index] = self.model.embed_audio(mels, torch.tensor([mel.shape[1]]))[0, : span.count]

    # -------------------------------------------------------------- sampling
    def _sample(self, complete: list[tuple[Chunk, int]], hidden: Tensor) -> list[ChunkResult]:
        """Sample one id for each (chunk, index of its last token), rows of one view together."""
        by_view: dict[Choice | None, list[tuple[Chunk, int]]] = {}
        for chunk, end in complete:
            verbatim = chunk.sequence.verbatim
            by_view.setdefault(verbatim.choice() if verbatim else None, []).append((chunk, end))
        results = []
        for choice, members in by_view.items():
            view = self._view(choice)
            ends = [end for _, end in members]
            states = hidden if ends == list(range(len(hidden))) else hidden[index_on(hidden.device, ends)]
            logits = self.model.logits(states, view.first, view.last)
            rows = [self._sample_row(chunk.sequence) for chunk, _ in members]
            sampled = sample(logits, rows, history=self._history, first_id=view.first, mask=view.mask)
            for (chunk, _), item in zip(members, sampled, strict=True):
                error = _not_finite(chunk) if item.token_id is None else None
                results.append(ChunkResult(chunk, item if error is None else None, error))
        return results

    def _sample_row(self, sequence: Sequence) -> SampleRow:
        history_row = None
        if needs_history(sequence.sampling):
            if self._history is None:
                self._history = TokenHistory(self._max_num_seqs, self._num_ids, self.model.device)
            history_row = sequence.row
            if history_row is not None:
                self._history.update(history_row, sequence.ids, sequence.num_prompt)
        return SampleRow(sequence.sampling, sequence.rng, sequence.blocked_ids, history_row)

    def _view(self, choice: Choice | None) -> _View:
        if choice not in self._views:
            self._views[choice] = _class_view(choice, self._special, self.model.device)
        return self._views[choice]


def _ids(chunks: list[Chunk]) -> list[int]:
    """The ids of all chunks' tokens, in order."""
    return [i for chunk in chunks for i in chunk.sequence.ids[chunk.start : chunk.start + chunk.count]]


def _class_view(choice: Choice | None, special: SpecialIds, device: torch.device) -> _View:
    """The ids a slot of verbatim speech may be sampled from."""
    ends = {*special.stop_ids, special.tts_end}
    if choice is None or choice.slot is Slot.TEXT:
        # An end among text that is left over stands for "text": the policy writes the next text id.
        allowed = {*range(special.text_limit), special.tts_pad, *ends}
        first, last = 0, special.audio_0
    else:
        allowed = {*range(special.audio_0, special.audio_padding + 1), *(ends if choice.may_end else ())}
        first, last = min(allowed), special.audio_padding + 1
    mask = torch.tensor([token_id not in allowed for token_id in range(first, last)], device=device)
    return _View(first, last, mask if bool(mask.any()) else None)


def _encoding_failed(chunk: Chunk, error: Exception) -> CadenceError:
    if isinstance(error, CadenceError):
        return error
    failure = StageFailed("The sound in the prompt could not be encoded.")
    failure.__cause__ = error
    return failure


def _not_finite(chunk: Chunk) -> StageFailed:
    position = chunk.start + chunk.count
    return StageFailed(f"The model's output is not finite at position {position} of the sequence.")
