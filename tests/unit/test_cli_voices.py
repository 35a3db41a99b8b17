"""`cadence voices`: against a server, and against the folder when none runs."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result
from test_voices import wav

import cadence.cli.voices
from cadence.cli import main
from cadence.config import ServerConfig
from cadence.fake import FakeEngine
from cadence.server.app import create_app
from cadence.voices.library import VoiceLibrary


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "anna.wav"
    path.write_bytes(wav(1.5))
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CADENCE_VOICES_DIR", str(tmp_path / "voices"))
    return tmp_path / "voices"


def run(*args: Any) -> Result:
    return CliRunner().invoke(main, ["voices", *map(str, args)])


def names(folder: Path) -> list[str]:
    return [voice.name for voice in VoiceLibrary(folder, max_voices=9, max_bytes=1 << 30).voices().values()]


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nobody(url: str) -> bool:
        return False

    monkeypatch.setattr(cadence.cli.voices, "answers", nobody)


@pytest.mark.usefixtures("no_server")
def test_without_a_server_the_folder_is_meant(folder: Path, recording: Path) -> None:
    added = run("add", "Anna", recording, "--consent", "she said yes", "--text", "Hello.")
    assert added.exit_code == 0, added.output
    library = VoiceLibrary(folder, max_voices=9, max_bytes=1 << 30)
    (voice,) = library.voices().values()
    assert (voice.name, voice.consent, voice.ref_text, voice.seconds) == (
        "Anna",
        "she said yes",
        "Hello.",
        1.5,
    )
    assert run("remove", "ANNA").exit_code == 0 and names(folder) == []
    gone = run("remove", "Anna")
    assert gone.exit_code == 2 and "no voice 'Anna'" in gone.stderr


@pytest.mark.usefixtures("no_server")
def test_what_cannot_be_added(folder: Path, recording: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    for name, file in (
        ("alloy", recording),
        ("default", recording),
        ("../x", recording),
        ("A", tmp_path / "broken.wav"),
    ):
        answer = run("add", name, file, "--consent", "x")
        assert answer.exit_code == 2 and answer.stderr.startswith("Error: "), (name, answer.output)
    assert "--consent" in run("add", "A", recording).output
    assert names(folder) == []


def test_with_a_server_the_server_does_it(
    folder: Path, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "theirs"
    app = create_app(FakeEngine(), ServerConfig(voices_dir=str(theirs)))

    @contextlib.asynccontextmanager
    async def fake_connect(url: Any, model: Any, api_key: Any) -> AsyncIterator[httpx.AsyncClient]:
        assert url == "http://there" and model is None
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=url) as client:
            yield client

    monkeypatch.setattr(cadence.cli.voices, "connect", fake_connect)
    assert run("add", "小明", recording, "--consent", "x", "--url", "http://there").exit_code == 0
    assert names(theirs) == ["小明"] and not folder.exists()
    listed = run("--url", "http://there", "list").stdout.splitlines()  # options before the name count too
    assert listed[0] == "default" and listed[-1] == "小明" and any("alloy" in line for line in listed)
    assert run("--url", "http://there").stdout.splitlines() == listed
    assert run("remove", "小明", "--url", "http://there").exit_code == 0
    again = run("remove", "小明", "--url", "http://there")
    assert again.exit_code == 2 and "no voice" in again.stderr
    assert run("--model", "m", "remove", "x").exit_code == 2
