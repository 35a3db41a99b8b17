"""Logits to ids: every sampling parameter per row, many rows at once.

A row's result depends on its own logits, parameters and random number alone, so a seed gives the same
ids in any batch. Order of operations, as vLLM has it: blocked ids and logit bias, penalties, greedy choice
or temperature, min_p, top_k, top_p, random choice.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cadence.models.transfers import index_on, to_device, to_host
from cadence.thinker.draw import draw
from cadence.types import SamplingParams

__all__ = ["SampleRow", "Sampled", "TokenHistory", "needs_history", "sample"]

GREEDY_TEMPERATURE = 1e-5  # dividing by less would overflow; nobody means it as anything but 0


@dataclass(frozen=True, slots=True)
class SampleRow:
    """What one row is sampled with. `history_row` is its row in the history (None = no penalties)."""

    sampling: SamplingParams
    rng: random.Random
    blocked_ids: tuple[int, ...] = ()
    history_row: int | None = None


@dataclass(frozen=True, slots=True)
class Sampled:
    """One row's id; None when its logits are not finite. `logprobs` as StepOutput pairs them."""

    token_id: int | None
    logprobs: tuple[float, tuple[tuple[int, float], ...]] | None = None


def needs_history(sampling: SamplingParams) -> bool:
    """Whether any penalty is on."""
    return (
        sampling.repetition_penalty != 1.0
        or sampling.presence_penalty != 0.0
        or sampling.frequency_penalty != 0.0
    )


class TokenHistory:
    """Which ids each row has seen, and how often it wrote them: `seen` bool and `counts` [rows, ids]."""

    def __init__(self, max_rows: int, num_ids: int, device: torch.device) -> None:
        self.seen = torch.zeros(max_rows, num_ids, dtype=torch.bool, device=device)
        self.counts = torch.zeros(max_rows, num_ids, dtype=torch.float32, device=device)
        self._num_known = [0] * max_rows

    def update(self, row: int, ids: Sequence[int], num_prompt: int) -> None:
        """Take in what `ids` gained since the last call; the first `num_prompt` are the prompt."""
        known = self._num_known[row]
        if len(ids) == known:
            return
        fresh = index_on(self.seen.device, ids[known:])
        self.seen[row, fresh] = True
        written = fresh[max(num_prompt - known, 0) :]
        self.counts[row].index_add_(0, written, torch.ones_like(written, dtype=torch.float32))
        self._num_known[row] = len(ids)

    def forget(self, row: int) -> None:
        """Start a row anew, for another sequence."""
        if self._num_known[row]:
            self.seen[row] = False
            self.counts[row] = 0
            self._num_known[row] = 0


def sample(
    logits: Tensor,
    rows: Sequence[SampleRow],
    *,
    history: TokenHistory | None = None,
    first_id: int = 0,
    mask: Tensor | None = None,
) -> list[Sampled]:
    """Choose one id per row.

    Args:
        logits: [R, W], float32, of the ids `first_id` to `first_id + W`; changed in place.
        rows: R of them.
        history: needed when a row has a `history_row`.
        mask: bool [W], True where an id may not be chosen by any row.
    """
    logprobs = [_Logprobs(logits[i], row, first_id) for i, row in enumerate(rows)]
    if mask is not None:
        logits.masked_fill_(mask, float("-inf"))
    _adjust(logits, rows, first_id)
    if history is not None:
        _penalise(logits, rows, history, first_id)
    chosen: list[int | None] = [None] * len(rows)
    greedy = [i for i, row in enumerate(rows) if row.sampling.temperature < GREEDY_TEMPERATURE]
    if greedy:
        best = logits[index_on(logits.device, greedy)] if len(greedy) < len(rows) else logits
        values, indices = to_host(*best.max(dim=-1))
        for i, value, index in zip(greedy, values.tolist(), indices.tolist(), strict=True):
            chosen[i] = index + first_id if math.isfinite(value) else None
    drawn = [i for i, row in enumerate(rows) if row.sampling.temperature >= GREEDY_TEMPERATURE]
    if drawn:
        part = logits[index_on(logits.device, drawn)] if greedy else logits
        for i, drawn_index in zip(drawn, _draw(part, [rows[i] for i in drawn], first_id), strict=True):
            chosen[i] = drawn_index + first_id if drawn_index is not None else None
    return [Sampled(token_id, lp.of(token_id)) for token_id, lp in zip(chosen, logprobs, strict=True)]


class _Logprobs:
    """Log-probabilities of the raw distribution, kept only when the row asks for them."""

    def __init__(self, logits: Tensor, row: SampleRow, first_id: int) -> None:
        self._num_top = row.sampling.logprobs
        self._first_id = first_id
        self._values = logits.log_softmax(-1) if self._num_top is not None else None

    def of(self, token_id: int | None) -> tuple[float, tuple[tuple[int, float], ...]] | None:
        """Pair of the id's own value and the best alternatives, best first."""
        if self._values is None or token_id is None:
            return None
        top: tuple[tuple[int, float], ...] = ()
        if self._num_top:
            best = self._values.topk(min(self._num_top, self._values.numel()))
            ids = (best.indices + self._first_id).tolist()
            top = tuple(zip(ids, best.values.tolist(), strict=True))
        return float(self._values[token_id - self._first_id]), top


def _adjust(logits: Tensor, rows: Sequence[SampleRow], first_id: int) -> None:
    width = logits.shape[1]
    for i, row in enumerate(rows):
        bias = {j - first_id: b for j, b in row.sampling.logit_bias.items() if 0 <= j - first_id < width}
        if bias:
            index = index_on(logits.device, list(bias))
            logits[i, index] += to_device(
                torch.tensor(list(bias.values()), dtype=logits.dtype), logits.device
            )
        blocked = [j - first_id for j in row.blocked_ids if 0 <= j - first_id < width]
        if blocked:
            logits[i, index_on(logits.device, blocked)] = float("-inf")


def _penalise(logits: Tensor, rows: Sequence[SampleRow], history: TokenHistory, first_id: int) -> None:
    """Repetition over prompt and answer (divide positive logits, multiply negative ones), presence and
    frequency over the answer."""
    which = [i for i, row in enumerate(rows) if row.history_row is not None]
    if not which:
        return
    last_id = first_id + logits.shape[1]
    history_rows = index_on(logits.device, [row.history_row for row in rows if row.history_row is not None])
    params = [rows[i].sampling for i in which]
    affected = None if len(which) == len(rows) else index_on(logits.device, which)
    part = logits if affected is None else logits[affected]

    def column(values: list[float]) -> Tensor:
        return to_device(torch.tensor(values, dtype=logits.dtype), logits.device)[:, None]

    if any(p.repetition_penalty != 1.0 for p in params):
        penalty = column([p.repetition_penalty for p in params])
        seen = history.seen[history_rows, first_id:last_id]
        part = torch.where(seen, torch.where(part > 0, part / penalty, part * penalty), part)
    if any(p.presence_penalty or p.frequency_penalty for p in params):
        counts = history.counts[history_rows, first_id:last_id]
        part = part - counts * column([p.frequency_penalty for p in params])
        part = part - (counts > 0) * column([p.presence_penalty for p in params])
    if affected is None:
        logits.copy_(part)
    else:
        logits[affected] = part


def _draw(logits: Tensor, rows: Sequence[SampleRow], first_id: int) -> list[int | None]:
    temperature = to_device(torch.tensor([row.sampling.temperature for row in rows]), logits.device)
    keys = np.array([row.rng.getrandbits(64) for row in rows], dtype=np.uint64)
    return draw(logits / temperature[:, None], [row.sampling for row in rows], keys, first_id)
