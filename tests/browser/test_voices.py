"""Voices: listed, tried, added from a file or the microphone, spoken with, deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from cadence.fake import FakeEngine

from .chromium import expect
from .conftest import Visit, pitch_hz

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def test_a_voice_is_tried(visit: Visit, engine: FakeEngine) -> None:
    page = visit.page
    page.get_by_role("tab", name="Voices").click()
    page.get_by_label("Sentence to try them with").fill("This is me.")
    page.get_by_role("button", name="Try default_male").click()
    visit.wait_to_hear(pitch_hz("default_male"))
    assert (engine.requests[0].voice, engine.requests[0].verbatim) == ("default_male", "This is me.")
    visit.wait_for_silence()


def test_a_voice_is_added_spoken_with_and_deleted(visit: Visit, engine: FakeEngine, recording: Path) -> None:
    page = visit.page
    page.get_by_role("tab", name="Voices").click()
    form = page.locator("#voice-form")
    form.get_by_label("Name").fill("Maria Ä.")
    form.get_by_label("Recording").set_input_files(recording)
    form.get_by_label("The person agreed").check()
    form.get_by_role("button", name="Add voice").click()
    expect(page.locator("#voice-status")).to_contain_text("Maria Ä. was added")
    page.get_by_role("button", name="Try Maria Ä.").click()
    visit.wait_to_hear(own_pitch(visit, engine))
    page.get_by_role("tab", name="Speak").click()
    page.locator("#speak select[name=voice]").select_option("Maria Ä.")
    page.get_by_role("button", name="Speak", exact=True).click()
    expect(page.locator("#speak-status")).to_contain_text("Complete")
    page.get_by_role("tab", name="Voices").click()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete Maria Ä.").click()
    expect(page.get_by_role("button", name="Try Maria Ä.")).to_have_count(0)
    expect(page.locator("#speak select[name=voice] option", has_text="Maria")).to_have_count(0)


def own_pitch(visit: Visit, engine: FakeEngine) -> float:
    """The fake's tone for a voice from a recording."""
    for _ in range(200):
        if engine.requests and engine.requests[-1].voice_sample is not None:
            return pitch_hz(engine.requests[-1].voice_sample.key)
        visit.page.wait_for_timeout(50)
    raise AssertionError("the engine got no voice of its own")


def test_a_voice_is_recorded(visit: Visit, engine: FakeEngine) -> None:
    page = visit.page
    page.get_by_role("tab", name="Voices").click()
    page.get_by_role("button", name="Record instead").click()
    expect(page.get_by_role("button", name="End the recording")).to_be_visible()
    page.wait_for_timeout(5_500)
    page.get_by_role("button", name="End the recording").click()
    expect(page.locator("#voice-sample")).to_be_visible()
    page.locator("#voice-form").get_by_label("Name").fill("mine")
    page.locator("#voice-form").get_by_label("The person agreed").check()
    page.get_by_role("button", name="Add voice").click()
    expect(page.get_by_role("button", name="Try mine")).to_be_visible()


def test_what_is_missing_is_told(visit: Visit, engine: FakeEngine) -> None:
    visit.expected = "400"
    page = visit.page
    page.get_by_role("tab", name="Voices").click()
    form = page.locator("#voice-form")
    form.get_by_label("Name").fill("default")
    form.get_by_label("The person agreed").check()
    form.get_by_role("button", name="Add voice").click()
    expect(page.locator("#voice-problem")).to_have_text("Choose or record a sample of the voice first.")
    form.get_by_label("Recording").set_input_files(
        {"name": "a.wav", "mimeType": "audio/wav", "buffer": b"RIFF"}
    )
    form.get_by_role("button", name="Add voice").click()
    expect(page.locator("#voice-problem")).to_contain_text("belongs to a voice of the model")
