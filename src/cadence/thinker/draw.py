"""Random choice among tempered logits, the same for a row in whatever batch it is.

Each id races: it takes a time that is exponentially distributed with its probability as the rate, and
the first one wins; so an id wins with its probability. The times come from a hash of the row's key and the
id. Rounding differs with the size of a batch, and here it can only matter when the two fastest come in at the
same time. (Looking one number up in the cumulative distribution would turn on the order of near-equal ids.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from cadence.types import SamplingParams

__all__ = ["draw"]

# Most nuclei end long before this many candidates; rows whose nucleus does not are sorted whole.
NUM_CANDIDATES = 1024

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def draw(
    logits: Tensor, params: Sequence[SamplingParams], keys: NDArray[np.uint64], first_id: int = 0
) -> list[int | None]:
    """Choose one column per row of logits [R, W]; None where a row is not finite.

    Args:
        logits: after penalties and temperature; -inf where an id is out of bounds.
        params: min_p, top_k and top_p of each row, applied in this order.
        keys: random, one per row.
        first_id: id of column 0; an id's time depends on the id, not on its column.
    """
    width = logits.shape[1]
    best = logits.amax(dim=-1).tolist()
    chosen: list[int | None] = [None] * len(params)
    finite = [i for i, value in enumerate(best) if math.isfinite(value)]
    cut = [i for i in finite if params[i].top_p < 1 or 0 < params[i].top_k < width]
    if plain := [i for i in finite if i not in cut]:
        values = _host(logits[plain])
        floors = np.array([best[i] + _log(params[i].min_p) for i in plain])
        winners = _race(values, np.arange(width), keys[plain], first_id, values >= floors[:, None])
        for i, winner in zip(plain, winners.tolist(), strict=True):
            chosen[i] = winner
    for num in (NUM_CANDIDATES, width):
        if not cut:
            break
        part = logits[cut]
        top = part.topk(min(num, width), dim=-1)
        values, columns = _host(top.values), top.indices.cpu().numpy()
        kept, settled = _nucleus(values, _host(part.logsumexp(dim=-1)), [params[i] for i in cut], width)
        places = _race(values, columns, keys[cut], first_id, kept)
        for i, row in enumerate(cut):
            if settled[i]:
                chosen[row] = int(columns[i, places[i]])
        cut = [row for row, done in zip(cut, settled.tolist(), strict=True) if not done]
    return chosen


def _host(values: Tensor) -> Floats:
    return values.cpu().numpy().astype(np.float64)


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _nucleus(
    values: Floats, totals: Floats, params: Sequence[SamplingParams], width: int
) -> tuple[Bools, Bools]:
    """Which candidates stay after min_p, top_k and top_p, and for which rows that is certain.

    Args:
        values: the best [R, N] logits of each row, falling.
        totals: logsumexp [R] of each whole row of `width`.
    """
    num = values.shape[1]
    floors = values[:, :1] + np.array([[_log(p.min_p)] for p in params])
    top_k = np.array([[p.top_k if 0 < p.top_k < width else width] for p in params])
    top_p = np.array([[p.top_p if p.top_p < 1 else math.inf] for p in params])
    kept = (values >= floors) & (np.arange(num) < top_k)
    mass = np.where(kept, np.exp(values - totals[:, None]), 0.0)
    # What min_p and top_k leave is known when they cut among the candidates, or do not cut at all.
    inside = ~kept[:, -1] | (num == width)
    uncut = (top_k[:, 0] == width) & (floors[:, 0] == -math.inf)
    left = np.where(inside, mass.sum(axis=1), 1.0)
    nucleus: Bools = kept & (mass.cumsum(axis=1) - mass < top_p * left[:, None])
    nucleus[:, 0] = True
    return nucleus, inside | (uncut & ~nucleus[:, -1])


def _race(
    values: Floats, columns: NDArray[np.int64], keys: NDArray[np.uint64], first_id: int, kept: Bools
) -> NDArray[np.int64]:
    """Place [R] of the winner among values [R, N]; `columns` [N] or [R, N] says which id stands where."""
    ids = (columns + first_id).astype(np.uint64)
    times = -np.log1p(-_uniform(keys[:, None], ids if ids.ndim == 2 else ids[None]))
    with np.errstate(divide="ignore"):
        scores = np.where(kept, values - np.log(times), -np.inf)
    winners: NDArray[np.int64] = scores.argmax(axis=1)
    return winners


def _uniform(keys: NDArray[np.uint64], ids: NDArray[np.uint64]) -> Floats:
    """Numbers in [0, 1) that depend on key and id alone: the output function of SplitMix64 on a counter."""
    x = keys + (ids + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    uniform: Floats = (x >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return uniform
