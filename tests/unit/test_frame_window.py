"""The window's bookkeeping against the reference's rule, written out as a list."""

from __future__ import annotations

import random

from cadence.models.frame_window import PROMPT_TAIL_FRAMES, FrameWindow


def test_members_are_those_of_the_rule_and_lie_without_gaps() -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(30):
        num_prompt = rng.choice([2, 60, 99, 100, 101, 150, 240, 700])
        window, storage = FrameWindow(num_prompt), {}
        rule = [("prompt", i) for i in range(num_prompt)]
        for chunk in range(rng.randrange(1, 25)):
            new = [("speech", chunk, i) for i in range(rng.choice([2, 10, 20, 40, 50, 56]))]
            plan = window.plan(len(new))
            assert plan.noise_offset == len(rule)
            for source, target in zip(plan.move_from, plan.move_to, strict=True):
                storage[target] = storage.pop(source)
            window.move(plan)
            storage.update(zip(plan.slots.tolist(), new, strict=True))
            seen = [storage[slot] for slot in range(plan.used)]
            seen += [("prompt", i) for start, stop in plan.prompt_runs for i in range(start, stop)]
            assert len(plan.prompt_runs) <= 2
            assert sorted(seen, key=str) == sorted(new + rule, key=str)
            window.commit(plan)
            rule = new + rule
            if len(rule) > num_prompt + PROMPT_TAIL_FRAMES:
                rule = rule[:num_prompt] + rule[-PROMPT_TAIL_FRAMES:]
            assert len(window) == len(rule)
            assert plan.used <= window.max_own + len(new)


def test_an_unused_plan_changes_nothing() -> None:
    window = FrameWindow(10)
    first = window.plan(6)
    again = window.plan(4)
    assert len(window) == 10 and first.noise_offset == again.noise_offset == 10
