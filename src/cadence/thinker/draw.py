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

from cadence.models.transfers import index_on, to_host
from cadence.types import SamplingParams

__all__ = ["draw"]

# Most nuclei end long before this many candidates; for others the whole row is looked at.
NUM_CANDIDATES = 1024
NUM_BINS = 1 << 16
BINS_PER_NAT = 2048  # so the bins reach down to e^-32 of the best id's probability

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
    chosen: list[int | None] = [None] * len(params)
    cut = [i for i, p in enumerate(params) if p.top_p < 1 or 0 < p.top_k < width]
    queued = [logits.amax(dim=-1)]
    if cut:
        part = logits if len(cut) == len(params) else logits[index_on(logits.device, cut)]
        top = part.topk(min(NUM_CANDIDATES, width), dim=-1)
        queued += [top.values, top.indices, part.logsumexp(dim=-1)]
    best, *candidates = to_host(*queued)  # one wait for all of it
    finite = [math.isfinite(value) for value in best.tolist()]
    rest = [i for i, is_finite in enumerate(finite) if is_finite]
    if whole := [place for place, i in enumerate(cut) if finite[i]]:
        if len(whole) < len(cut):
            cut, candidates = [cut[place] for place in whole], [found[whole] for found in candidates]
        values, columns, totals = _host(candidates[0]), candidates[1].numpy(), _host(candidates[2])
        kept, settled = _nucleus(values, totals, [params[i] for i in cut], width)
        places = _race(np.where(kept, values, -np.inf), columns + first_id, keys[cut]).tolist()
        for i, row in enumerate(cut):
            if settled[i]:
                chosen[row] = int(columns[i, places[i]])
        rest = [i for i in rest if chosen[i] is None]
    for i in rest:
        values = _host(logits[i])
        members = _members(values, params[i])
        winner = _race(values[None, members], members[None] + first_id, keys[i : i + 1])
        chosen[i] = int(members[winner[0]])
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


def _members(values: Floats, params: SamplingParams) -> NDArray[np.int64]:
    """Columns of one whole row [W] that min_p, top_k and top_p leave, without sorting it.

    The nucleus ends in the bin of a histogram where the mass reaches top_p; only that bin is sorted.
    """
    best, width = values.max(), len(values)
    kept = values >= best + _log(params.min_p)
    if 0 < params.top_k < width:
        kept &= values >= np.partition(values, width - params.top_k)[width - params.top_k]
    columns = np.flatnonzero(kept & np.isfinite(values))
    if params.top_p >= 1:
        return columns
    below = best - values[columns]
    mass = np.exp(-below)
    bins = np.minimum(below * BINS_PER_NAT, NUM_BINS - 1).astype(np.int64)
    reached = np.bincount(bins, weights=mass, minlength=NUM_BINS).cumsum()
    target = params.top_p * reached[-1]
    last = int(np.searchsorted(reached, target))
    inside = np.flatnonzero(bins == last)
    inside = inside[np.argsort(below[inside], kind="stable")]
    before = (reached[last - 1] if last else 0.0) + mass[inside].cumsum() - mass[inside]
    chosen = np.concatenate((np.flatnonzero(bins < last), inside[before < target]))
    members: NDArray[np.int64] = columns[chosen]
    return members


def _race(values: Floats, ids: NDArray[np.int64], keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Place [R] of the winner among values [R, N]; `ids` [R, N] says which id stands where."""
    times = -np.log1p(-_uniform(keys[:, None], ids.astype(np.uint64)))
    winners: NDArray[np.int64] = (values - np.log(times)).argmax(axis=1)
    return winners


def _uniform(keys: NDArray[np.uint64], ids: NDArray[np.uint64]) -> Floats:
    """Numbers in (0, 1) that depend on key and id alone: the output function of SplitMix64 on a counter."""
    x = keys + (ids + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    uniform: Floats = ((x >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    return uniform
