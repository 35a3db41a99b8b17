"""Laws of the Thinker: an answer depends on its request alone, and nothing is left behind."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from thinker_kit import Answer, Kit, add, collect, idle, kit_of, run_all

from cadence.errors import CadenceError, InvalidRequest, PromptTooLong, StageFailed
from cadence.types import StepOutput


@pytest.fixture
def kit(tiny_checkpoint: Path, device: str) -> Kit:
    return kit_of(tiny_checkpoint, device)


@pytest.fixture
def alone(kit: Kit) -> dict[str, Answer]:
    return kit.alone()


@pytest.mark.parametrize("tokens", [16, 37, 512])
def test_batched_and_chunked_equals_alone(kit: Kit, alone: dict[str, Answer], tokens: int) -> None:
    core = kit.core(max_num_batched_tokens=tokens, max_num_seqs=8)
    assert run_all(core, kit.variety()) == alone
    assert idle(core)


def test_any_company_and_time_of_arrival_equals_alone(kit: Kit, alone: dict[str, Answer]) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(3):
        core = kit.core(max_num_batched_tokens=rng.randint(16, 60), max_num_seqs=rng.randint(2, 7))
        todo = rng.sample(kit.variety(), 5)
        names = {request.request_id for request in todo}
        answers: dict[str, StepOutput | CadenceError] = {}
        while todo or core.has_work:
            if todo and rng.random() < 0.4:
                add(core, todo.pop())
            collect(core, answers)
        for name in names:
            item = answers[name]
            assert isinstance(item, StepOutput) and (item.ids, item.finish_reason) == alone[name]


def test_preemption_changes_nothing(kit: Kit) -> None:
    requests = [
        kit.request("a", num_ids=10, temperature=0, max_tokens=50),
        kit.request("b", num_ids=12, frames=(40,), seed=1, max_tokens=50),
        kit.request("c", num_ids=8, seed=2, max_tokens=50, top_p=0.9, repetition_penalty=1.2),
        kit.request("d", num_ids=9, seed=3, max_tokens=50, say="Good morning"),
    ]
    roomy, tight = kit.core(), kit.core(kv_cache_tokens=10 * 16)
    assert run_all(tight, requests) == run_all(roomy, requests)
    assert tight.stats()["num_preemptions"] > 0 and roomy.stats()["num_preemptions"] == 0
    assert idle(tight)


def test_aborts_in_any_order_leave_nothing(kit: Kit) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    core = kit.core(kv_cache_tokens=20 * 16, max_num_batched_tokens=24, max_num_seqs=4)
    names = [request.request_id for request in kit.variety()]
    for request in kit.variety():
        add(core, request)
    rng.shuffle(names)
    for name in names:
        for _ in range(rng.randrange(4)):
            core.step()
        core.abort(name)
        assert not core.abort(name)
    assert idle(core) and not core.has_work


def test_speech_says_the_text_in_groups_of_five(kit: Kit) -> None:
    text = kit.tokenizer.encode("Good morning")
    request = kit.request(
        "said", say="Good morning", seed=1, ignore_eos=False, max_tokens=300, temperature=1.0
    )
    ids, reason = run_all(kit.core(), [request])["said"]
    spoken = ids if reason == "length" else ids[:-1]
    assert list(spoken[0 : 5 * len(text) : 5]) == text
    for place, token in enumerate(spoken):
        assert (
            (token in text or token == kit.special.tts_pad)
            if place % 5 == 0
            else kit.special.audio_0 <= token < kit.tokenizer.num_ids
        )
    if reason == "stop":
        assert ids[-1] in (*kit.special.stop_ids, kit.special.tts_end)


def test_speech_may_wait_for_its_place(kit: Kit) -> None:
    request = kit.request("said", say="Good morning", seed=1, max_tokens=130, temperature=1.0)
    waiting = kit.core(tts_max_wait=3)
    pad = {kit.special.tts_pad: 100.0}
    wants_to_wait = kit.request("said", say="Good morning", seed=1, max_tokens=130, logit_bias=pad)
    text = kit.tokenizer.encode("Good morning")
    assert run_all(waiting, [wants_to_wait])["said"][0][15 :: 4 * 5][: len(text)] == tuple(text)
    assert run_all(kit.core(), [request])["said"][0][0::5][: len(text)] == tuple(text)


def test_ids_past_the_tokenizer_are_never_sampled(kit: Kit) -> None:
    rows = kit.model.config.vocab_size
    assert rows > kit.tokenizer.num_ids
    requests = [kit.request(f"hot {n}", seed=n, temperature=100.0, max_tokens=60) for n in range(3)]
    for ids, _ in run_all(kit.core(), requests).values():
        assert max(ids) < kit.tokenizer.num_ids


def test_stops(kit: Kit) -> None:
    greedy = run_all(kit.core(), [kit.request("x", temperature=0)])["x"][0]
    stop = next(token for token in greedy if token != greedy[0])
    place = greedy.index(stop)

    def answer(**params: object) -> StepOutput:
        core, answers = kit.core(), {}
        add(core, kit.request("x", temperature=0, **params))
        while core.has_work:
            collect(core, answers)
        item = answers["x"]
        assert isinstance(item, StepOutput)
        return item

    stopped = answer(stop_token_ids=(stop,))
    assert (stopped.ids, stopped.finish_reason, stopped.stop_match) == (greedy[: place + 1], "stop", stop)
    late = answer(stop_token_ids=(stop,), min_tokens=place + 3)
    assert len(late.ids) >= place + 3 and stop not in late.ids[: place + 3]
    forced = answer(ignore_eos=False, logit_bias={kit.special.eot: 100.0})
    assert (forced.ids, forced.stop_match) == ((kit.special.eot,), kit.special.eot)
    ignored = answer(ignore_eos=True, logit_bias={kit.special.eot: 100.0}, max_tokens=3)
    assert (ignored.ids, ignored.finish_reason) == ((kit.special.eot,) * 3, "length")


def test_logprobs_pair_with_ids(kit: Kit) -> None:
    core, answers = kit.core(), {}
    add(core, kit.request("x", temperature=0, logprobs=3))
    while core.has_work:
        collect(core, answers)
    item = answers["x"]
    assert isinstance(item, StepOutput) and len(item.logprobs) == len(item.ids) == 16
    for token, (own, top) in zip(item.ids, item.logprobs, strict=True):
        assert top[0] == (token, own) and len(top) == 3 and own <= 0


def test_what_cannot_run_is_refused_at_once(kit: Kit) -> None:
    core = kit.core(max_model_len=100)
    good = kit.request("x", frames=(99,))
    with pytest.raises(PromptTooLong, match="100"):
        core.check(kit.request("x", num_ids=90, max_tokens=11))
    assert core.check(kit.request("x", num_ids=90, max_tokens=None)) == 10
    for params in ({"temperature": -1.0}, {"top_p": 0.0}, {"max_tokens": 0}, {"logit_bias": {99999: 1.0}}):
        with pytest.raises(InvalidRequest):
            core.check(kit.request("x", **params))
    with pytest.raises(InvalidRequest, match="logprobs"):
        core.check(kit.request("x", say="Hi", logprobs=1))
    for prompt in (
        type(good.prompt)(ids=()),
        type(good.prompt)(ids=(-1,)),
        type(good.prompt)(ids=good.prompt.ids, spans=good.prompt.spans),
        type(good.prompt)(ids=good.prompt.ids, spans=good.prompt.spans, mels=(good.prompt.mels[0][:, :60],)),
        type(good.prompt)(ids=good.prompt.ids, spans=good.prompt.spans, mels=(good.prompt.mels[0][:80],)),
    ):
        with pytest.raises(InvalidRequest):
            core.check(type(good)(request_id="x", prompt=prompt, sampling=good.sampling))


def test_a_broken_step_fails_what_it_held_and_the_rest_goes_on(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = kit.core(max_num_seqs=2)
    for name in ("a", "b", "waits"):
        add(core, kit.request(name, temperature=0))
    with monkeypatch.context() as patch:
        patch.setattr(core.runner.model, "embed_ids", lambda ids: 1 / 0)
        failed = dict(core.step())
    assert set(failed) == {"a", "b"} and all(isinstance(error, StageFailed) for error in failed.values())
    answers: dict[str, StepOutput | CadenceError] = {}
    while core.has_work:
        collect(core, answers)
    expected = run_all(kit.core(), [kit.request("waits", temperature=0)])
    item = answers["waits"]
    assert isinstance(item, StepOutput) and (item.ids, item.finish_reason) == expected["waits"]
    assert idle(core)


def test_sound_that_cannot_be_encoded_fails_alone(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    core = kit.core()
    monkeypatch.setattr(core.runner.model, "embed_audio", lambda mels, frames: 1 / 0)
    add(core, kit.request("heard", frames=(99,)))
    add(core, kit.request("read", temperature=0))
    answers: dict[str, StepOutput | CadenceError] = {}
    while core.has_work:
        collect(core, answers)
    assert isinstance(answers["heard"], StageFailed) and isinstance(answers["read"], StepOutput)
    assert idle(core)


def test_what_is_not_finite_fails_alone_and_is_not_inherited(kit: Kit, alone: dict[str, Answer]) -> None:
    """A poisoned sequence shares its batch, and gives its memory to the next one."""
    core = kit.core(kv_cache_tokens=8 * 16)
    table = kit.model.model.embed_tokens.weight
    poison = 200
    kept = table[poison].clone()
    healthy = kit.request("greedy", temperature=0)
    assert poison not in (*healthy.prompt.ids, *alone["greedy"][0])
    bad = type(healthy)(
        request_id="bad",
        prompt=type(healthy.prompt)(ids=(poison,) * 70),
        sampling=kit.request("bad", temperature=1.0).sampling,
    )
    try:
        with torch.inference_mode():
            table[poison] = float("nan")
        add(core, bad)
        add(core, healthy)
        answers: dict[str, StepOutput | CadenceError] = {}
        while core.has_work:
            collect(core, answers)
    finally:
        with torch.inference_mode():
            table[poison] = kept
    assert isinstance(answers["bad"], StageFailed)
    item = answers["greedy"]
    assert isinstance(item, StepOutput) and (item.ids, item.finish_reason) == alone["greedy"]
    usual = next(request for request in kit.variety() if request.request_id == "usual")
    assert run_all(core, [usual, kit.variety()[0]]) == {name: alone[name] for name in ("usual", "greedy")}
