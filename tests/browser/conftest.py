"""A real page in a real browser, with ears at its loudspeaker and a talker at its microphone.

The fake engine answers: it speaks in tones whose pitch tells the voice, so what reaches the loudspeaker
can be checked for more than being no silence.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from api.conftest import Live, run_live
from cadence.audio.encode import encode_wav
from cadence.config import ServerConfig
from cadence.fake import FakeEngine
from talker import talk

RATE_HZ = 48_000
SILENCE_S, SPEECH_S = 2.5, 2.0
WAIT_S = 60.0  # machines that test are busy

EARS = (Path(__file__).parent / "ears.js").read_text()


@pytest.fixture(scope="package")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Chromium, whose microphone hears two seconds of talk, then silence, again and again."""
    from .chromium import ARGS, MISSING, executable, sync_api

    path = executable()
    if path is None:
        pytest.skip(MISSING)
    spoken = np.concatenate(
        (np.zeros(int(SILENCE_S * RATE_HZ), np.float32), talk(SPEECH_S, seed=3, rate_hz=RATE_HZ))
    )
    sound = tmp_path_factory.mktemp("microphone") / "talk.wav"
    sound.write_bytes(encode_wav(spoken, RATE_HZ))
    args = [*ARGS, f"--use-file-for-fake-audio-capture={sound}"]
    # A driver of its own for these tests only: its event loop would be in the way of coroutine tests.
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=args)
        yield browser
        browser.close()


@dataclass
class Visit:
    """One visit to a page: what happened, and what may happen."""

    page: Any
    live: Live
    problems: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    expected: str | None = None
    """Part of the console messages that the test brings about, such as a status that is an error."""

    def sound(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """The last 4096 samples at the loudspeaker."""
        return np.array(self.page.evaluate("Array.from(sound()[0])"))

    def forget_sound(self) -> None:
        """What was heard until now does not count."""
        self.page.evaluate("heard.length = 0")

    def wait_to_hear(self, hz: float) -> None:
        """Wait until the loudspeaker has given this pitch."""
        self._wait(f"isHeard({hz})", f"{hz:.0f} Hz")

    def wait_for_steady_sound(self) -> None:
        """Wait until there has been sound for a while: the ears hold nothing else."""
        self._wait("isSteady()", "a steady sound")

    def wait_for_silence(self) -> None:
        """Wait until nothing is heard any more."""
        self._wait("isSilent()", "silence")

    def _wait(self, condition: str, what: str) -> None:
        end = time.monotonic() + WAIT_S
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, f"not heard: {what}; but {self.page.evaluate('heard.slice(-10)')}"
            self.page.wait_for_timeout(100)

    def note(self, kind: str, text: str) -> None:
        """Something the console shows."""
        if kind in ("error", "warning") and not (self.expected and self.expected in text):
            self.problems.append(f"{kind}: {text}")


def pitch_hz(voice: str) -> float:
    """The fake engine's tone for a voice."""
    return 110 + zlib.crc32(voice.encode()) % 330


@pytest.fixture(scope="package")
def page_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """One server for all pages; it keeps voices."""
    folder = tmp_path_factory.mktemp("voices")
    with run_live(FakeEngine(delay_s=0.02), ServerConfig(voices_dir=str(folder))) as live:
        yield live


@pytest.fixture(scope="package")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seconds of talk, as a file."""
    path = tmp_path_factory.mktemp("recording") / "talk.wav"
    path.write_bytes(encode_wav(talk(SPEECH_S, seed=5, rate_hz=24_000), 24_000))
    return path


@pytest.fixture
def engine(page_server: Live) -> Iterator[FakeEngine]:
    """The engine behind the pages, as new for each test."""
    fake = page_server.engine
    fake.requests.clear()
    fake.num_aborted = 0
    yield fake
    fake.delay_s, fake.fault, fake.max_active = 0.02, None, 64


@pytest.fixture
def visit(browser: Any, page_server: Live, engine: FakeEngine) -> Iterator[Visit]:
    """The page on a desk. Ends with a look at the console, and at whom the page has talked to."""
    yield from open_page(browser, page_server)


@pytest.fixture
def phone(browser: Any, page_server: Live, engine: FakeEngine) -> Iterator[Visit]:
    """The page on a small phone."""
    yield from open_page(
        browser, page_server, viewport={"width": 320, "height": 640}, is_mobile=True, has_touch=True
    )


def open_page(browser: Any, live: Live, script: str = EARS, **options: Any) -> Iterator[Visit]:
    """Visit the page in a profile of its own; yields once, then checks what must hold on every visit."""
    context = browser.new_context(permissions=["microphone"], **options)
    context.add_init_script(script)
    page = context.new_page()
    visit = Visit(page, live)
    page.on("console", lambda message: visit.note(message.type, message.text))
    page.on("pageerror", lambda error: visit.problems.append(str(error)))
    page.on("request", lambda request: visit.hosts.add(urlsplit(request.url).netloc))
    page.on("websocket", lambda socket: visit.hosts.add(urlsplit(socket.url).netloc))
    page.goto(live.url)
    yield visit
    context.close()
    assert visit.problems == []
    assert visit.hosts <= {urlsplit(live.url).netloc, ""}
