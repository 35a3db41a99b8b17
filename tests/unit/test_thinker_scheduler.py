"""The scheduler's policy on its own: no tensors, no model."""

from __future__ import annotations

import random

import pytest

from cadence.errors import ConfigError
from cadence.thinker.blocks import BlockPool
from cadence.thinker.scheduler import Chunk, Scheduler
from cadence.thinker.sequence import Sequence
from cadence.types import Prompt, SamplingParams, ThinkerRequest

NEW_ID = 5


def sequence(arrival: int, num_prompt: int, max_tokens: int = 50) -> Sequence:
    request = ThinkerRequest(
        request_id=str(arrival), prompt=Prompt(ids=(1,) * num_prompt), sampling=SamplingParams()
    )
    return Sequence(request, arrival=arrival, max_tokens=max_tokens, eos_ids=())


def scheduler(num_blocks: int = 100, *, seqs: int = 4, tokens: int = 32, block_size: int = 4) -> Scheduler:
    return Scheduler(BlockPool(num_blocks, block_size), max_num_seqs=seqs, max_num_batched_tokens=tokens)


def run(policy: Scheduler) -> list[Chunk]:
    """One step as the engine runs it, every complete chunk gaining one id."""
    chunks = policy.schedule()
    for chunk in chunks:
        complete = chunk.is_last
        chunk.sequence.num_computed += chunk.count
        if complete:
            chunk.sequence.commit(NEW_ID)
            if chunk.sequence.finish_reason:
                policy.remove(chunk.sequence)
    return chunks


def shape(chunks: list[Chunk]) -> list[tuple[int, int, int]]:
    return [(chunk.sequence.arrival, chunk.start, chunk.count) for chunk in chunks]


def test_prompts_are_chunked_beside_answers() -> None:
    policy = scheduler(tokens=10, seqs=2)
    policy.add(sequence(0, 3))
    policy.add(sequence(1, 25))
    assert shape(run(policy)) == [(0, 0, 3), (1, 0, 7)]
    assert shape(run(policy)) == [(0, 3, 1), (1, 7, 9)]
    assert shape(run(policy)) == [(0, 4, 1), (1, 16, 9)]
    assert shape(run(policy)) == [(0, 5, 1), (1, 25, 1)]


def test_rows_limit_how_many_run() -> None:
    policy = scheduler(seqs=2)
    for arrival in range(3):
        policy.add(sequence(arrival, 2, max_tokens=2))
    assert [chunk.sequence.arrival for chunk in run(policy)] == [0, 1]
    assert [chunk.sequence.arrival for chunk in run(policy)] == [0, 1]
    assert [chunk.sequence.arrival for chunk in run(policy)] == [2]


def test_a_prompt_waits_until_all_of_it_fits() -> None:
    policy = scheduler(num_blocks=6)
    policy.add(sequence(0, 16))
    policy.add(sequence(1, 12))
    policy.add(sequence(2, 1))
    assert [chunk.sequence.arrival for chunk in run(policy)] == [0]
    assert [item.arrival for item in policy.waiting] == [1, 2], "order of arrival holds: nobody is overtaken"


def test_the_newest_gives_way_and_goes_on_with_the_ids_it_had() -> None:
    policy = scheduler(num_blocks=5)
    old, new = sequence(0, 7, max_tokens=9), sequence(1, 7, max_tokens=9)
    policy.add(old)
    policy.add(new)
    while not policy.num_preemptions:
        run(policy)
    assert policy.waiting == [new] and new.blocks == [] and new.row is None and new.num_computed == 0
    kept = list(new.ids)
    assert len(kept) > 7
    while policy.has_work:
        run(policy)
    assert new.ids[: len(kept)] == kept and new.num_output == old.num_output == 9
    assert policy.pool.tokens_used == 0


def test_too_small_a_step_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_num_batched_tokens"):
        scheduler(seqs=16, tokens=31)


def test_any_order_of_arrivals_and_aborts_ends_with_nothing_held() -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(30):
        policy = scheduler(num_blocks=rng.randint(12, 30), seqs=rng.randint(1, 5), tokens=rng.randint(10, 40))
        alive: list[Sequence] = []
        for arrival in range(25):
            item = sequence(arrival, rng.randint(1, 20), max_tokens=rng.randint(1, 20))
            policy.add(item)
            alive.append(item)
            for chunk in run(policy) if rng.random() < 0.8 else []:
                assert chunk.count > 0
            total = sum(len(item.blocks) for item in policy.running)
            assert total + policy.pool.num_free == policy.pool.num_blocks
            assert [s.arrival for s in policy.running] == sorted(s.arrival for s in policy.running)
            if rng.random() < 0.3:
                policy.remove(alive.pop(rng.randrange(len(alive))))
        for _ in range(5000):
            if not policy.has_work:
                break
            assert sum(chunk.count for chunk in run(policy)) <= policy.max_num_batched_tokens
        assert not policy.has_work and policy.pool.tokens_used == 0
