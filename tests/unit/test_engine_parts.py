"""The engine's pure parts: stop strings, admission, mailbox, limits."""

from __future__ import annotations

import asyncio
import random

import pytest

from cadence.answers.admission import Admission, retry_after_s
from cadence.answers.mailbox import Mailbox
from cadence.answers.stopping import StopMatcher
from cadence.errors import Overloaded
from cadence.types import Done, TextDelta, Usage


def cut(text: str, stops: list[str], sizes: list[int]) -> tuple[str, str | None]:
    matcher, shown, at = StopMatcher(stops), "", 0
    for size in sizes:
        result = matcher.push(text[at : at + size])
        shown, at = shown + result.text, at + size
        if result.match is not None:
            return shown, result.match
    return shown + matcher.flush(), None


def test_stop_strings_do_not_depend_on_how_text_is_cut() -> None:
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    dice = random.Random(seed)
    for _ in range(500):
        text = "".join(dice.choices("abc", k=30))
        stops = ["".join(dice.choices("abc", k=dice.randrange(1, 5))) for _ in range(dice.randrange(4))]
        whole = cut(text, stops, [30])
        assert cut(text, stops, [1] * 30) == whole
        assert cut(text, stops, [dice.randrange(1, 6) for _ in range(30)]) == whole
        shown, match = whole
        assert text.startswith(shown + (match or ""))
        assert (match is None) == (not any(stop in text for stop in stops))


def test_stop_string_held_back_is_shown_at_the_end() -> None:
    matcher = StopMatcher(["<end>"])
    assert matcher.push("hello <en").text == "hello "
    assert matcher.flush() == "<en"


async def test_admission_is_first_in_first_out() -> None:
    admission = Admission(2, 10, 5)
    order: list[int] = []
    gates = [asyncio.Event() for _ in range(6)]

    async def hold(number: int) -> None:
        async with admission.place(str(number)):
            order.append(number)
            await gates[number].wait()

    tasks = [asyncio.create_task(hold(number)) for number in range(6)]
    await asyncio.sleep(0)
    assert order == [0, 1] and admission.num_waiting == 4
    tasks[3].cancel()  # gives up while it waits
    await asyncio.sleep(0)
    for gate in (1, 0, 2, 4, 5):
        gates[gate].set()
        await asyncio.sleep(0.001)
    await asyncio.gather(*tasks, return_exceptions=True)
    assert order == [0, 1, 2, 4, 5]
    assert admission.num_running == 0 and admission.num_waiting == 0


async def test_admission_place_handed_to_a_leaver_passes_on() -> None:
    admission = Admission(1, 10, 5)
    first = admission.place("a")
    await first.__aenter__()
    got: list[str] = []

    async def hold(name: str) -> None:
        async with admission.place(name):
            got.append(name)

    leaver, patient = asyncio.create_task(hold("b")), asyncio.create_task(hold("c"))
    await asyncio.sleep(0)
    await first.__aexit__(None, None, None)  # hands the place to b ...
    leaver.cancel()  # ... which leaves in the same moment
    await asyncio.wait({leaver, patient})
    assert got == ["c"] and admission.num_running == 0
    full = Admission(1, 0, 1)
    async with full.place("x"):
        with pytest.raises(Overloaded):
            await full.place("y").__aenter__()


async def test_admission_bounds_the_sound_that_waits() -> None:
    admission = Admission(1, 10, 5, max_waiting_audio_s=60)
    async with admission.place("running", 1000):  # what runs at once is not in the queue
        waiting = asyncio.create_task(admission.place("b", 40).__aenter__())
        await asyncio.sleep(0)
        admission.check(20)
        with pytest.raises(Overloaded):
            admission.check(21)
        admission.check(0)
    await waiting
    admission.check(60)


def test_retry_after_is_a_whole_second_in_bounds() -> None:
    assert retry_after_s(0, 32, 0.1) == 1
    assert retry_after_s(63, 32, 2.0) == 4
    assert retry_after_s(10_000, 1, 60.0) == 60


async def test_mailbox_waits_when_full_and_ends_once() -> None:
    box = Mailbox(2)
    done = Done(finish_reason="stop", usage=Usage())

    async def produce() -> None:
        for number in range(5):
            await box.put(TextDelta(str(number)))
        assert box.close(done) and not box.close(done)

    producer = asyncio.create_task(produce())
    await asyncio.sleep(0.001)
    assert box.num_events == 2 and not box.closed
    got = [await box.get() for _ in range(6)]
    assert got[:-1] == [TextDelta(str(number)) for number in range(5)] and got[-1] is done
    await producer
    await box.put(TextDelta("late"))
    assert await box.get() is done
