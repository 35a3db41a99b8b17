"""Listen: a file or the microphone goes out, the transcript comes back as it is written."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from cadence.errors import StageFailed
from cadence.fake import FakeEngine, FakeFault, heard_s
from cadence.types import TextPart

from .chromium import expect
from .conftest import SPEECH_S, Visit

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]


def choose(visit: Visit, recording: Path) -> None:
    visit.page.get_by_role("tab", name="Listen").click()
    visit.page.get_by_label("choose a file").set_input_files(recording)


def test_a_file_is_written_down(visit: Visit, engine: FakeEngine, recording: Path) -> None:
    page = visit.page
    page.get_by_role("tab", name="Listen").click()
    page.locator("#listen summary").click()
    page.get_by_label("Language").fill("en")
    page.get_by_label("Names and words to expect").fill("Cadence")
    choose(visit, recording)
    expect(page.locator("#listen-text")).to_have_text("I heard 2.00 seconds of audio.")
    expect(page.locator("#listen-duration")).to_have_text("2.00 s")
    expect(page.locator("#listen-rtf")).not_to_have_text("–")  # it comes when the answer has ended
    assert float(page.locator("#listen-rtf").inner_text()) > 0
    expect(page.locator("#listen-player")).to_be_visible()
    label = page.locator("#listen-picture").get_attribute("aria-label")
    assert label == "Waveform and spectrogram of 2.0 seconds of sound"
    (request,) = engine.requests
    parts = [part for message in request.messages for part in message.content]
    said = " ".join(part.text for part in parts if isinstance(part, TextPart))
    assert heard_s(request) == pytest.approx(SPEECH_S, abs=0.01) and "Cadence" in said


def test_the_transcript_is_shown_while_it_is_written(
    visit: Visit, engine: FakeEngine, recording: Path
) -> None:
    engine.fault = FakeFault(4, None)  # after some words it takes for ever
    choose(visit, recording)
    text = visit.page.locator("#listen-text")
    expect(text).to_contain_text("I heard")
    expect(text).to_have_attribute("aria-busy", "true")
    visit.page.locator("#listen-stop").click()
    expect(text).to_have_attribute("aria-busy", "false")
    expect(visit.page.locator("#listen-problem")).to_be_hidden()


def test_the_microphone_is_written_down(visit: Visit, engine: FakeEngine) -> None:
    page = visit.page
    page.get_by_role("tab", name="Listen").click()
    page.get_by_role("button", name="Record", exact=True).click()
    expect(page.locator("#listen-hint")).to_contain_text("press again to end")
    page.wait_for_timeout(6_000)  # of which at least one turn is speech
    page.get_by_role("button", name="End the recording").click()
    expect(page.locator("#listen-text")).to_contain_text("seconds of audio")
    assert engine.requests and heard_s(engine.requests[0]) > 0.5
    assert float(page.locator("#listen-duration").inner_text().removesuffix(" s")) > 3


def test_a_file_is_dropped(visit: Visit, engine: FakeEngine, recording: Path) -> None:
    page = visit.page
    page.get_by_role("tab", name="Listen").click()
    dropped = page.evaluate_handle(
        """(data) => {
          const dropped = new DataTransfer();
          const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
          dropped.items.add(new File([bytes], "talk.wav", { type: "audio/wav" }));
          return dropped;
        }""",
        base64.b64encode(recording.read_bytes()).decode(),
    )
    page.dispatch_event("#listen-drop", "drop", {"dataTransfer": dropped})
    expect(page.locator("#listen-text")).to_have_text("I heard 2.00 seconds of audio.")


def test_subtitles_and_text_can_be_saved(visit: Visit, engine: FakeEngine, recording: Path) -> None:
    choose(visit, recording)
    page = visit.page
    expect(page.locator("#listen-save")).to_be_enabled()
    for name, start in (("srt", "1\n00:00:00,"), ("vtt", "WEBVTT"), ("text", "I heard")):
        page.get_by_label("Format of the transcript").select_option(name)
        with page.expect_download() as download:
            page.locator("#listen-save").click()
        assert Path(download.value.path()).read_text().startswith(start)


def test_what_is_no_sound_is_refused_in_plain_words(visit: Visit, engine: FakeEngine, tmp_path: Path) -> None:
    visit.expected = "400"
    broken = tmp_path / "noise.wav"
    broken.write_bytes(b"this is no recording" * 100)
    choose(visit, broken)
    problem = visit.page.locator("#listen-problem")
    expect(problem).to_be_visible()
    assert "audio" in problem.inner_text().lower() or "sound" in problem.inner_text().lower()


def test_a_transcript_that_breaks_off(visit: Visit, engine: FakeEngine, recording: Path) -> None:
    engine.fault = FakeFault(4, StageFailed("The listener fell asleep."))
    choose(visit, recording)
    expect(visit.page.locator("#listen-problem")).to_have_text(
        "The transcript broke off: The listener fell asleep."
    )
