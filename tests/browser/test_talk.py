"""Talk: the microphone's talker is heard, answered, and may interrupt."""

from __future__ import annotations

from typing import Any

import pytest

from cadence.fake import FakeEngine, heard_s

from .chromium import expect
from .conftest import SPEECH_S, Visit, pitch_hz

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

LONG = "Tell me a long story. " * 40


def start(visit: Visit) -> Any:
    """Begin a conversation."""
    page = visit.page
    page.get_by_role("tab", name="Talk").click()
    page.get_by_role("button", name="Start the conversation").click()
    expect(page.get_by_role("button", name="End the conversation")).to_be_visible()
    return page


def test_a_spoken_conversation(visit: Visit, engine: FakeEngine) -> None:
    page = start(visit)
    expect(page.locator("#talk-state")).to_have_text("Listening")
    visit.wait_to_hear(pitch_hz("default"))
    expect(page.locator(".bubble.assistant").first).to_contain_text("I heard")
    expect(page.locator(".bubble.user").first).to_contain_text("I heard")  # the fake's idea of a transcript
    expect(page.locator("#talk-first")).to_contain_text("s")
    spoken = [request for request in engine.requests if request.output == "speech"]
    assert 0.5 * SPEECH_S < heard_s(spoken[0]) < 3 * SPEECH_S
    page.get_by_role("button", name="End the conversation").click()
    expect(page.locator("#talk-state")).to_have_text("Not connected")
    visit.wait_for_silence()


def test_speaking_over_an_answer_ends_it(visit: Visit, engine: FakeEngine) -> None:
    engine.delay_s = 0.0
    page = start(visit)
    page.get_by_label("Type instead of talking").fill(LONG)
    page.get_by_role("button", name="Send").click()
    # Minutes of answer are on their way; the talker at the microphone does not wait for them.
    expect(page.locator(".bubble.assistant.cut").first).to_be_visible()
    assert int(page.locator("#talk-interrupted").inner_text()) >= 1
    expect(page.locator(".bubble.assistant").last).to_contain_text("seconds of audio")
    visit.forget_sound()
    visit.wait_for_silence()  # the rest of the story is never heard


def test_an_answer_can_be_stopped_by_hand(visit: Visit, engine: FakeEngine) -> None:
    page = start(visit)
    page.get_by_role("button", name="Mute the microphone").click()
    page.get_by_label("Type instead of talking").fill(LONG)
    page.keyboard.press("Enter")
    visit.wait_to_hear(pitch_hz("default"))
    page.get_by_role("button", name="Stop the answer").click()
    visit.wait_for_silence()
    expect(page.locator(".bubble.assistant.cut")).to_have_count(1)
    expect(page.get_by_role("button", name="Stop the answer")).to_be_disabled()


def test_muted_it_hears_nothing_and_can_be_typed_to(visit: Visit, engine: FakeEngine) -> None:
    page = start(visit)
    page.get_by_role("button", name="Mute the microphone").click()
    page.get_by_label("Type instead of talking").fill("Are you there?")
    page.keyboard.press("Enter")
    expect(page.locator(".bubble.user").last).to_have_text("You: Are you there?")
    expect(page.locator(".bubble.assistant").last).to_contain_text("You said: Are you there?")
    expect(page.locator("#talk-turns")).to_have_text("1")


def test_voice_and_instructions(visit: Visit, engine: FakeEngine) -> None:
    page = visit.page
    page.get_by_role("tab", name="Talk").click()
    page.locator("#talk summary").click()
    page.locator("#talk-voice").select_option("default_female")
    page.get_by_label("Instructions").fill("Be brief.")
    page.get_by_label("Type instead of talking").fill("Hello.")
    page.keyboard.press("Enter")  # starts the conversation by itself
    visit.wait_to_hear(pitch_hz("default_female"))
    request = next(request for request in engine.requests if request.output == "speech")
    assert request.messages[0].content[0].text == "Be brief."  # type: ignore[union-attr]


def test_without_a_microphone_it_can_be_typed_to(visit: Visit, engine: FakeEngine) -> None:
    page = visit.page
    page.evaluate(
        """() => {
          navigator.mediaDevices.getUserMedia = async () => { throw new DOMException("", "NotFoundError"); };
        }"""
    )
    start(visit)
    expect(page.locator("#talk-problem")).to_have_text(
        "There is no microphone on this device. You can still type."
    )
    page.get_by_label("Type instead of talking").fill("Hello.")
    page.keyboard.press("Enter")
    visit.wait_to_hear(pitch_hz("default"))
