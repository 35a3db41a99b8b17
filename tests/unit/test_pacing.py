"""Speech far ahead of its listener gives way to speech that is wanted now; nothing it says changes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from thinker_kit import Kit, add, collect, run_all

from cadence.errors import CadenceError
from cadence.thinker.core import CoreLimits, ThinkerCore
from cadence.thinker.pacing import CODE_S, DRY_S, PrefillBudget, lead_s, resting
from cadence.types import StepOutput


@pytest.fixture
def kit(tiny_checkpoint: Path) -> Kit:
    return Kit(tiny_checkpoint, "cpu")


def test_a_lead_shrinks_while_it_is_played() -> None:
    assert lead_s(0, None, 9.0) is None
    assert lead_s(50, 3.0, 3.0) == pytest.approx(2.0)
    assert lead_s(50, 3.0, 6.0) == pytest.approx(-1.0)


def test_who_is_far_ahead_rests_only_while_another_runs_dry() -> None:
    assert resting({"far": 9.0, "dry": 0.2}, 5.0) == {"far"}
    assert resting({"far": 9.0, "new": None}, 5.0) == {"far"}
    assert resting({"far": 9.0, "fine": 3.0}, 5.0) == set()
    assert resting({"near": 4.0, "dry": 0.2}, 5.0) == set()
    assert resting({"far": 9.0}, 5.0) == set()
    assert resting({}, 5.0) == set()


def test_whoever_is_dry_or_new_never_rests_and_so_somebody_always_runs() -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(300):
        leads = {n: rng.choice([None, rng.uniform(-2, 12)]) for n in range(rng.randint(1, 8))}
        far_s = rng.choice([0.0, 0.5, 5.0])
        found = resting(leads, far_s)
        assert len(found) < len(leads)
        assert all((lead := leads[name]) is not None and lead > DRY_S for name in found)


class Clock:
    """Stands still until told."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_a_newcomer_is_helped_and_both_say_what_they_say_alone(kit: Kit) -> None:
    early = kit.request("early", say="Good morning", seed=1, max_tokens=150)
    late = kit.request("late", say="Good morning", seed=2, max_tokens=60)
    alone = run_all(kit.core(), [early]) | run_all(kit.core(), [late])
    clock = Clock()
    limits = CoreLimits(
        num_ids=kit.tokenizer.num_ids,
        eos_ids=kit.special.stop_ids,
        max_model_len=2048,
        kv_cache_tokens=4096,
        speech_ahead_s=2.0,
    )
    core = ThinkerCore(kit.model, kit.special, limits, clock=clock)
    answers: dict[str, StepOutput | CadenceError] = {}
    add(core, early)
    while core.scheduler.running[0].num_codes * CODE_S <= 2.0 if core.scheduler.running else True:
        collect(core, answers)
    written = len(core._sequences["early"].ids)
    add(core, late)
    while core._sequences["late"].num_codes * CODE_S < DRY_S:
        collect(core, answers)
    assert len(core._sequences["early"].ids) <= written + 1  # it rested: the prompt's first step shares
    while core.has_work:
        collect(core, answers)
    said = {
        name: (out.ids, out.finish_reason) for name, out in answers.items() if isinstance(out, StepOutput)
    }
    assert said == alone


def test_played_speech_goes_on_beside_a_newcomer(kit: Kit) -> None:
    clock = Clock()
    core = kit.core(speech_ahead_s=2.0)
    core._clock = clock
    add(core, kit.request("early", say="Good morning", seed=1, max_tokens=150))
    for _ in range(80):
        core.step()
    clock.now_s = 60.0  # all of it has been heard
    add(core, kit.request("late", say="Good morning", seed=2, max_tokens=60))
    core.step()
    written = len(core._sequences["early"].ids)
    core.step()
    assert len(core._sequences["early"].ids) > written


def test_prompts_join_in_parts_that_fit_the_time() -> None:
    budget = PrefillBudget(0.25)
    assert budget.tokens == budget.UNKNOWN_TOKENS
    budget.observe(8, 5.0)  # too few to tell
    assert budget.tokens == budget.UNKNOWN_TOKENS
    budget.observe(100, 0.5)
    assert budget.tokens == 50
    budget.observe(100, 1.0)
    assert budget.tokens == 37
    for _ in range(20):
        budget.observe(100, 100.0)
    assert budget.tokens == budget.MIN_TOKENS
    assert PrefillBudget(float("inf")).tokens is None


def test_a_long_prompt_does_not_hold_a_stream_up_and_says_the_same(kit: Kit) -> None:
    stream = kit.request("stream", say="Good morning", seed=1, max_tokens=80)
    long = kit.request("long", num_ids=300, temperature=0, max_tokens=5)
    alone = run_all(kit.core(), [stream]) | run_all(kit.core(), [long])
    core = kit.core(prefill_stall_s=0.25)
    core._clock = Clock()  # stands still: nothing is ever measured
    answers: dict[str, StepOutput | CadenceError] = {}
    add(core, stream)
    collect(core, answers)
    add(core, long)
    steps = 0
    while core._sequences["long"].in_prefill:
        written = len(core._sequences["stream"].ids)
        collect(core, answers)
        assert len(core._sequences["stream"].ids) > written
        steps += 1
    assert steps == 3  # 128 + 128 + 44
    while core.has_work:
        collect(core, answers)
    said = {
        name: (out.ids, out.finish_reason) for name, out in answers.items() if isinstance(out, StepOutput)
    }
    assert said == alone
