"""Reused keys and values: the same answers, honest accounts, nothing left behind."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from thinker_kit import Answer, Kit, add, collect, idle, run_all

from cadence.errors import CadenceError, StageFailed
from cadence.thinker.blocks import BlockPool
from cadence.thinker.prefix import PrefixKeys, audio_digests
from cadence.types import AudioSpan, Prompt, StepOutput, ThinkerRequest

USUAL = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.05}


@pytest.fixture(scope="module")
def kit(tiny_checkpoint: Path) -> Kit:
    return Kit(tiny_checkpoint, "cpu")


def outputs(core, requests: list[ThinkerRequest]) -> dict[str, StepOutput]:  # type: ignore[no-untyped-def]
    """All requests run together; errors are raised."""
    answers: dict[str, StepOutput | CadenceError] = {}
    cached: dict[str, int] = {}
    for request in requests:
        add(core, request)
    while core.has_work:
        for name, item in core.step():
            if isinstance(item, CadenceError):
                raise item
            before = answers.get(name)
            ids = before.ids if isinstance(before, StepOutput) else ()
            answers[name] = replace(item, ids=ids + item.ids)
            cached[name] = item.num_cached
    return {name: replace(item, num_cached=cached[name]) for name, item in answers.items()}  # type: ignore[type-var]


def next_turn(request: ThinkerRequest, answer: tuple[int, ...], name: str) -> ThinkerRequest:
    """The same conversation with the answer and a new question behind it."""
    ids = (*request.prompt.ids, *answer, *range(40, 60))
    return replace(request, request_id=name, prompt=replace(request.prompt, ids=ids))


# ------------------------------------------------------------------ laws
def test_a_second_turn_reuses_the_first_and_answers_alike(kit: Kit) -> None:
    warm = kit.core()
    first = kit.request("turn 1", num_ids=40, frames=(302, 99), seed=1, max_tokens=37, **USUAL)
    one = outputs(warm, [first])["turn 1"]
    assert one.num_cached == 0 and idle(warm)
    for number in range(2, 5):
        first = next_turn(first, one.ids, f"turn {number}")
        one = outputs(warm, [first])[first.request_id]
        assert one.num_cached >= len(first.prompt.ids) - 20 - 2 * 16
        assert (one.ids, one.finish_reason) == run_all(kit.core(), [first])[first.request_id]
    assert idle(warm) and warm.stats()["kv_tokens_kept"] > 0


def test_reuse_in_any_company_equals_alone(kit: Kit) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    base = kit.request("base", num_ids=50, frames=(99, 150))
    variants = []
    for number in range(8):
        shared = rng.randint(0, len(base.prompt.ids))
        spans = tuple(span for span in base.prompt.spans if span.start + span.count <= shared)
        tail = tuple(rng.randrange(256) for _ in range(rng.randint(1, 30)))
        prompt = Prompt(ids=base.prompt.ids[:shared] + tail, spans=spans, mels=base.prompt.mels[: len(spans)])
        sampling = replace(kit.request("x", seed=number, **USUAL).sampling, max_tokens=rng.randint(1, 24))
        say = tuple(kit.tokenizer.encode("Good morning")) if number % 3 == 0 else None
        if say:
            sampling = replace(sampling, ignore_eos=False)
        variants.append(
            ThinkerRequest(request_id=str(number), prompt=prompt, sampling=sampling, forced_text_ids=say)
        )
    alone = {name: a for v in variants for name, a in run_all(kit.core(reuse_prefixes=False), [v]).items()}
    core = kit.core(kv_cache_tokens=10 * 16, max_num_batched_tokens=rng.randint(16, 64), max_num_seqs=4)
    for _ in range(3):
        rng.shuffle(variants)
        assert run_all(core, variants) == alone
        assert idle(core)
    assert core.stats()["num_evictions"] > 0


def test_preempted_sequences_reuse_what_they_had_computed(kit: Kit) -> None:
    requests = [
        kit.request(name, num_ids=10, seed=seed, max_tokens=50, **USUAL) for seed, name in enumerate("abcd")
    ]
    tight, roomy = kit.core(kv_cache_tokens=10 * 16), kit.core(reuse_prefixes=False)
    assert run_all(tight, requests) == run_all(roomy, requests)
    assert tight.stats()["num_preemptions"] > 0 and idle(tight)


def test_aborts_in_any_order_leave_nothing_held(kit: Kit) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    core = kit.core(kv_cache_tokens=20 * 16, max_num_batched_tokens=24, max_num_seqs=4)
    base = kit.request("base", num_ids=60, seed=3, **USUAL)
    expected = run_all(kit.core(), [base])["base"]
    for number in range(30):
        add(core, next_turn(base, tuple(range(rng.randint(0, 30))), str(number)))
        for _ in range(rng.randrange(4)):
            core.step()
        core.abort(str(rng.randrange(number + 1)))
    for number in range(30):
        core.abort(str(number))
    assert idle(core) and not core.has_work
    assert run_all(core, [base])["base"] == expected


def test_other_sound_is_not_taken_for_the_same(kit: Kit) -> None:
    """The ids of two recordings of one length are alike; what was computed from them is not."""
    core = kit.core()
    heard = kit.request("heard", num_ids=20, frames=(302,), temperature=0)
    other = replace(heard, request_id="other", prompt=replace(heard.prompt, mels=(-heard.prompt.mels[0],)))
    assert heard.prompt.ids == other.prompt.ids
    run_all(core, [heard])
    found = outputs(core, [other])["other"]
    assert found.num_cached == 16, "only what stands before the sound is shared"
    assert (found.ids, found.finish_reason) == run_all(kit.core(), [other])["other"]


def test_what_is_not_finite_is_never_shared(kit: Kit) -> None:
    """A prompt of many chunks is poisoned in its first, which shows only where its last ends."""
    import torch

    core = kit.core(max_num_batched_tokens=32)
    table = kit.model.model.embed_tokens.weight
    poison = 201
    kept = table[poison].clone()
    bad = replace(kit.request("bad", temperature=0), prompt=Prompt(ids=(poison, *[7] * 199)))
    answers: dict[str, StepOutput | CadenceError] = {}
    try:
        with torch.inference_mode():
            table[poison] = float("nan")
        add(core, bad)
        while core.has_work:
            collect(core, answers)
    finally:
        with torch.inference_mode():
            table[poison] = kept
    assert isinstance(answers["bad"], StageFailed)
    assert core.stats()["kv_tokens_kept"] == 0
    good = replace(bad, request_id="good")
    assert run_all(core, [good]) == run_all(kit.core(), [good])


def test_a_failing_sequence_leaves_shared_blocks_alone(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    core = kit.core()
    base = kit.request("base", num_ids=64, temperature=0)
    expected: Answer = run_all(core, [base])["base"]
    add(core, next_turn(base, (), "fails"))
    with monkeypatch.context() as patch:
        patch.setattr(core.runner.model, "embed_ids", lambda ids: 1 / 0)
        [(_, error)] = core.step()
    assert isinstance(error, StageFailed) and idle(core)
    again = outputs(core, [base])["base"]
    assert again.num_cached == 48 and (again.ids, again.finish_reason) == expected


def test_it_can_be_switched_off(kit: Kit) -> None:
    core = kit.core(reuse_prefixes=False)
    request = kit.request("base", num_ids=64)
    assert [outputs(core, [request])["base"].num_cached for _ in range(2)] == [0, 0]
    assert core.stats()["kv_tokens_kept"] == 0


# ------------------------------------------------------------------ accounts
def keys_of(*ids: int, spans: tuple[AudioSpan, ...] = (), digests: tuple[bytes, ...] = ()) -> list[bytes]:
    return list(PrefixKeys(spans, digests, 4).of(ids, len(ids) // 4))


def test_keys_depend_on_all_that_stands_before() -> None:
    one, two = keys_of(1, 2, 3, 4, 5, 6, 7, 8), keys_of(0, 2, 3, 4, 5, 6, 7, 8)
    assert one[0] != two[0] and one[1] != two[1]
    assert keys_of(1, 2, 3, 4, 9, 9, 9, 9)[0] == one[0]


def test_keys_depend_on_sound_and_the_place_in_it() -> None:
    ids = (7,) * 12
    here, later = (AudioSpan(5, 4),), (AudioSpan(6, 4),)
    plain = keys_of(*ids)
    a, b = keys_of(*ids, spans=here, digests=(b"a",)), keys_of(*ids, spans=here, digests=(b"b",))
    assert plain[0] == a[0] == b[0]
    assert len({plain[1], a[1], b[1], keys_of(*ids, spans=later, digests=(b"a",))[1]}) == 4
    assert a[2] != b[2]


def test_digests_tell_recordings_apart(kit: Kit) -> None:
    prompt = kit.request("heard", frames=(302, 302)).prompt
    one, two = audio_digests(prompt)
    assert one != two and audio_digests(prompt) == (one, two)


def test_free_blocks_with_content_are_free_and_evicted_oldest_first() -> None:
    pool = BlockPool(4, 4)
    keys = keys_of(*range(16))
    blocks: list[int] = []
    assert pool.grow(blocks, 16)
    for block, key in zip(blocks, keys, strict=True):
        pool.publish(block, key)
    pool.release(blocks)
    assert (pool.num_free, pool.tokens_used, pool.tokens_kept) == (4, 0, 16)
    assert pool.find(keys) == [0, 1, 2, 3]
    assert pool.grow(blocks, 5), "what is only kept makes room"
    assert pool.num_evictions == 2 and pool.find(keys) == [0, 1], "the end of a prefix goes first"
    other: list[int] = []
    pool.share(other, pool.find(keys))
    assert pool.num_free == 0 and not pool.grow(other, 12)
    pool.release(blocks)
    assert pool.num_free == 2 and pool.num_free_among([0, 1]) == 0
    pool.release(other)
    assert pool.num_free == 4 and pool.tokens_kept == 8


def test_a_block_is_shared_until_its_last_holder_leaves() -> None:
    pool = BlockPool(2, 4)
    [key] = keys_of(1, 2, 3, 4)
    first: list[int] = []
    second: list[int] = []
    pool.grow(first, 4)
    pool.publish(first[0], key)
    pool.share(second, pool.find([key]))
    pool.release(first)
    assert pool.tokens_used == 4 and pool.tokens_kept == 0
    pool.release(second)
    assert pool.tokens_used == 0 and pool.tokens_kept == 4
