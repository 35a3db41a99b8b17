"""Speak: what is typed is heard, drawn, measured and saved."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cadence.audio.encode import ENCODERS
from cadence.errors import StageFailed
from cadence.fake import FakeEngine, FakeFault

from .chromium import expect
from .conftest import EARS, Visit, open_page, pitch_hz

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

TEXT = "Good morning to everyone who listens."


def say(visit: Visit, text: str = TEXT) -> None:
    visit.page.get_by_label("What to say").fill(text)
    visit.page.get_by_role("button", name="Speak", exact=True).click()


def wait_until_spoken(visit: Visit) -> None:
    expect(visit.page.locator("#speak-status")).to_contain_text("Complete")


def test_a_text_is_heard_while_it_is_made(visit: Visit, engine: FakeEngine) -> None:
    engine.fault = FakeFault(9, None)  # stops there, and waits for ever
    say(visit)
    visit.wait_to_hear(pitch_hz("default"))
    assert engine.num_active == 1
    engine.fault = None
    say(visit)
    wait_until_spoken(visit)
    request = engine.requests[-1]
    assert request.verbatim == TEXT and request.sampling.seed is not None
    expect(visit.page.locator("#speak-seed")).to_have_text(str(request.sampling.seed))


def test_the_sound_has_no_gaps(visit: Visit, engine: FakeEngine) -> None:
    engine.delay_s = 0.0
    say(visit, 40 * f"{TEXT} ")
    visit.wait_for_steady_sound()
    samples = visit.sound()
    # A sine is predicted by its last two samples; anything between the chunks would stand out.
    factor = 2 * np.cos(2 * np.pi * pitch_hz("default") / 24_000)
    error = samples[2:] - factor * samples[1:-1] + samples[:-2]
    assert np.abs(samples).max() > 0.25 and np.abs(error).max() < 0.01


def test_figures_picture_and_download(visit: Visit, engine: FakeEngine) -> None:
    say(visit)
    wait_until_spoken(visit)
    page = visit.page
    expect(page.locator("#speak-first")).to_contain_text("s")
    assert float(page.locator("#speak-rtf").inner_text()) > 0
    shown_s = float(page.locator("#speak-duration").inner_text().removesuffix(" s"))
    assert page.locator("#speak-picture").get_attribute("aria-label").startswith("Waveform and spectrogram")
    assert num_colours(page, "#speak-picture") > 20
    page.get_by_label("Format of the download").select_option("wav")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").first.click()
    with wave.open(io.BytesIO(Path(download.value.path()).read_bytes())) as file:
        assert file.getframerate() == 24_000
        assert file.getnframes() / 24_000 == pytest.approx(shown_s, abs=0.01)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert np.abs(samples).max() > 5_000


def test_every_format_of_the_server_can_be_saved(visit: Visit, engine: FakeEngine) -> None:
    say(visit, "Hi.")
    wait_until_spoken(visit)
    page = visit.page
    offered = page.locator("#speak-format option").evaluate_all("items => items.map((item) => item.value)")
    assert set(offered) == set(ENCODERS)
    for name in offered:
        page.locator("#speak-format").select_option(name)
        with page.expect_download() as download:
            page.get_by_role("button", name="Download").first.click()
        assert download.value.suggested_filename == f"speech.{name}"
        assert len(Path(download.value.path()).read_bytes()) > 200
    assert len({request.sampling.seed for request in engine.requests}) == 1  # the same speech each time


def test_voice_and_settings_are_used(visit: Visit, engine: FakeEngine) -> None:
    page = visit.page
    page.get_by_label("Voice").first.select_option("default_male")
    page.locator("#speak").get_by_text("More settings").click()
    page.get_by_label("Temperature").fill("0.3")
    page.get_by_label("Seed").fill("42")
    page.get_by_label("How to say it").fill("Slowly.")
    say(visit)
    visit.wait_to_hear(pitch_hz("default_male"))
    wait_until_spoken(visit)
    (request,) = engine.requests
    assert request.voice == "default_male"
    assert (request.sampling.seed, request.sampling.temperature) == (42, 0.3)
    assert request.messages[0].content[0].text == "Slowly."  # type: ignore[union-attr]


def test_stop(visit: Visit, engine: FakeEngine) -> None:
    engine.delay_s = 0.1
    say(visit, 20 * TEXT)
    visit.wait_to_hear(pitch_hz("default"))
    visit.page.get_by_role("button", name="Stop").first.click()
    visit.wait_for_silence()
    for _ in range(100):
        if engine.num_active == 0:
            break
        visit.page.wait_for_timeout(50)
    assert engine.num_aborted == 1
    assert visit.page.locator("#speak-problem").is_hidden()


def test_play_again_and_from_a_place(visit: Visit, engine: FakeEngine) -> None:
    engine.delay_s = 0.0
    say(visit, 40 * f"{TEXT} ")
    wait_until_spoken(visit)
    page = visit.page
    page.get_by_role("button", name="Stop").first.click()
    visit.wait_for_silence()
    visit.forget_sound()
    page.get_by_role("button", name="Play again").click()
    visit.wait_to_hear(pitch_hz("default"))
    page.get_by_label("Position").fill("30")
    expect(page.locator("#speak-clock")).to_contain_text("0:3")
    assert len(engine.requests) == 1


def test_with_the_keyboard_alone(visit: Visit, engine: FakeEngine) -> None:
    page = visit.page
    expect(page.locator("#model")).not_to_be_empty()
    for _ in range(6):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "speak-input":
            break
    page.keyboard.press("Control+a")
    page.keyboard.type("By hand.")
    page.keyboard.press("Control+Enter")
    visit.wait_to_hear(pitch_hz("default"))
    assert engine.requests[0].verbatim == "By hand."


def test_speech_that_breaks_off_says_why(visit: Visit, engine: FakeEngine) -> None:
    visit.expected = "ERR_INCOMPLETE_CHUNKED_ENCODING"
    engine.fault = FakeFault(4, StageFailed("The vocoder ran out of breath."))
    say(visit)
    expect(visit.page.get_by_role("alert").filter(visible=True)).to_have_text(
        "The speech broke off: The vocoder ran out of breath."
    )
    engine.fault = None
    say(visit)
    wait_until_spoken(visit)
    assert visit.page.locator("#speak-problem").is_hidden()


def test_a_full_server_is_told_in_plain_words(visit: Visit, engine: FakeEngine) -> None:
    visit.expected = "429"
    engine.max_active = 0
    say(visit)
    expect(visit.page.locator("#speak-problem")).to_have_text(
        "The server is busy with other requests. Try again in a second."
    )


def test_without_worklets_it_is_heard_all_the_same(browser: Any, visit: Visit) -> None:
    """Over plain http from another machine, browsers have no AudioWorklet."""
    without = "delete BaseAudioContext.prototype.audioWorklet; delete window.AudioWorkletNode;"
    for plain in open_page(browser, visit.live, script=EARS + without):
        say(plain)
        plain.wait_to_hear(pitch_hz("default"))
        wait_until_spoken(plain)
        plain.wait_for_silence()
        expect(plain.page.locator("#speak-clock")).to_contain_text("0:00 /")
        plain.page.get_by_role("tab", name="Listen").click()
        plain.page.get_by_role("button", name="Record").first.click()
        expect(plain.page.locator("#listen-problem")).to_contain_text("only over https or on localhost")


def num_colours(page: Any, canvas: str) -> int:
    """How many colours a picture has."""
    return int(
        page.locator(canvas).evaluate(
            """(canvas) => {
              const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
              return new Set(new Uint32Array(data.buffer)).size;
            }"""
        )
    )
