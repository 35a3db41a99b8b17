"""Sampling against plain numpy, row by row."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from cadence.thinker.draw import NUM_CANDIDATES, draw
from cadence.thinker.sampler import Sampled, SampleRow, TokenHistory, sample
from cadence.types import SamplingParams


def row(
    seed: int = 0, *, history_row: int | None = None, blocked: tuple[int, ...] = (), **params: object
) -> SampleRow:
    return SampleRow(SamplingParams(**params), random.Random(seed), blocked, history_row)  # type: ignore[arg-type]


def ids(found: list[Sampled]) -> list[int | None]:
    return [item.token_id for item in found]


def expected_distribution(logits: np.ndarray, params: SamplingParams) -> np.ndarray:
    """Probability of each id, the slow way."""
    x = logits / params.temperature
    p = np.exp(x - x.max())
    p[p < params.min_p * p.max()] = 0
    order = np.argsort(-p)
    if params.top_k > 0:
        p[order[params.top_k :]] = 0
    p /= p.sum()
    before = np.cumsum(p[order]) - p[order]
    if params.top_p < 1:
        p[order[before >= params.top_p]] = 0
    return p / p.sum()


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(),
        SamplingParams(temperature=0.7, top_p=0.9),
        SamplingParams(top_k=5),
        SamplingParams(top_k=NUM_CANDIDATES + 100, top_p=0.8),
        SamplingParams(temperature=1.5, min_p=0.2),
        SamplingParams(temperature=0.8, top_k=20, top_p=0.6, min_p=0.05),
    ],
)
@pytest.mark.parametrize(
    ("width", "spread"), [(40, 2.0), (NUM_CANDIDATES + 500, 2.0), (NUM_CANDIDATES + 500, 0.2)]
)
def test_ids_are_drawn_as_often_as_they_should(params: SamplingParams, width: int, spread: float) -> None:
    logits = np.random.default_rng(3).standard_normal(width).astype(np.float32) * spread
    expected = expected_distribution(logits.astype(np.float64), params)
    draws = 600
    keys = np.random.default_rng(5).integers(0, 1 << 63, draws, dtype=np.uint64)
    tempered = torch.from_numpy(logits / np.float32(params.temperature)).expand(draws, -1)
    counts = np.bincount(draw(tempered, [params] * draws, keys), minlength=width)
    assert counts[expected == 0].sum() == 0
    sigma = np.sqrt(expected * draws)
    assert (np.abs(counts - expected * draws) < 5 * sigma + 3).all()


def test_flat_distributions_need_more_than_the_first_candidates() -> None:
    logits = torch.zeros(1, 4 * NUM_CANDIDATES)
    params = [SamplingParams(top_p=0.9)]
    found = {draw(logits, params, np.array([key], dtype=np.uint64))[0] for key in range(40)}
    assert len(found) == 40


def test_greedy_is_the_best_id_and_draws_nothing() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    chosen = row(temperature=0)
    before = chosen.rng.getstate()
    assert ids(sample(logits, [chosen], first_id=10)) == [11]
    assert chosen.rng.getstate() == before


def test_penalties_bias_and_blocked_ids() -> None:
    history = TokenHistory(2, 6, torch.device("cpu"))
    history.update(1, [0, 3, 4], num_prompt=2)
    history.update(1, [0, 3, 4, 4], num_prompt=2)
    logits = torch.tensor([[2.0, 1.9, -1.0, -1.0, 2.1, 0.0]])
    params = {
        "temperature": 0,
        "repetition_penalty": 2.0,
        "presence_penalty": 0.25,
        "frequency_penalty": 0.5,
        "logit_bias": {5: 1.5},
    }
    changed = logits.clone()
    assert ids(sample(changed, [row(history_row=1, blocked=(1,), **params)], history=history)) == [5]
    expected = [[1.0, -np.inf, -1.0, -2.0, 2.1 / 2 - 2 * 0.5 - 0.25, 1.5]]
    np.testing.assert_allclose(changed.numpy(), expected, rtol=1e-6)
    history.forget(1)
    again = logits.clone()
    sample(again, [row(history_row=1, temperature=0, repetition_penalty=2.0)], history=history)
    assert torch.equal(again, logits), "a forgotten row has seen nothing"


def test_logprobs_are_of_the_raw_distribution() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.5]])
    raw = logits.log_softmax(-1)[0].tolist()
    mask = torch.tensor([False, True, False])
    (found,) = sample(logits, [row(temperature=0, logprobs=2, logit_bias={1: -50.0})], mask=mask, first_id=7)
    assert found.token_id == 7 and found.logprobs is not None
    own, top = found.logprobs
    assert own == pytest.approx(raw[0])
    assert [i for i, _ in top] == [8, 7] and [v for _, v in top] == pytest.approx([raw[1], raw[0]])


def test_a_row_is_the_same_in_any_company() -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    kinds = [
        {"temperature": 0},
        {"temperature": 1.0},
        {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2},
        {"top_k": 3, "frequency_penalty": 0.3},
        {"min_p": 0.1, "presence_penalty": 0.5, "logit_bias": {4: 2.0}},
    ]
    logits = torch.randn(8, 2000, generator=torch.Generator().manual_seed(seed))
    history = TokenHistory(8, 2000, torch.device("cpu"))
    for index in range(8):
        history.update(index, [rng.randrange(2000) for _ in range(20)], num_prompt=10)
    chosen = [rng.choice(kinds) for _ in range(8)]

    def pick(rows: list[int]) -> list[int | None]:
        made = [row(seed=i, history_row=i, **chosen[i]) for i in rows]
        return ids(sample(logits[rows].clone(), made, history=history))

    alone = [pick([index])[0] for index in range(8)]
    for _ in range(5):
        rows = rng.sample(range(8), rng.randint(1, 8))
        assert pick(rows) == [alone[index] for index in rows]


def test_an_id_is_as_likely_to_win_wherever_its_range_begins() -> None:
    logits = torch.randn(1, 50)
    chosen = ids(sample(logits.clone(), [row(seed=3)], first_id=0))
    wider = torch.cat((torch.full((1, 30), float("-inf")), logits), dim=1)
    assert chosen[0] is not None
    assert ids(sample(wider, [row(seed=3)], first_id=-30)) == chosen


def test_rows_that_are_not_finite_fail_alone() -> None:
    logits = torch.zeros(4, 5)
    logits[0, 2], logits[1, 2], logits[2] = float("nan"), float("inf"), float("-inf")
    for params in ({"temperature": 0}, {"temperature": 1.0}, {"top_p": 0.5}):
        found = ids(sample(logits.clone(), [row(**params) for _ in range(4)]))
        assert found[:3] == [None] * 3 and found[3] is not None
