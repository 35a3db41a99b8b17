"""/v1/audio/voices over plain HTTP: shapes, rules for names, limits, faults and races."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cadence.config import ServerConfig
from cadence.errors import InvalidAudio, NotReady
from cadence.fake import FakeEngine
from cadence.server.app import create_app
from cadence.types import ModelInfo
from cadence.voices.sample import make_sample

from .test_fetch import Site, site
from .voice_kit import recording

__all__ = ["site"]  # a fixture

VOICES = "/v1/audio/voices"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "voices"


@pytest.fixture
def config(folder: Path) -> ServerConfig:
    return ServerConfig(voices_dir=str(folder))


@pytest.fixture
async def client(engine: FakeEngine, config: ServerConfig) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(engine, config))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def upload(
    client: httpx.AsyncClient, name: str = "Anna", data: bytes | None = None, **fields: Any
) -> httpx.Response:
    form = {"name": name, "consent": "a note", **fields}
    files = {"audio_sample": ("a.wav", recording() if data is None else data, "audio/wav")}
    return await client.post(VOICES, data=form, files=files)


async def speak(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/v1/audio/speech", json={"input": "Hello.", "seed": 1, **fields})


def files(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def error_of(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


# ------------------------------------------------------------------ shapes
async def test_the_list_has_both_shapes(client: httpx.AsyncClient) -> None:
    made = (await upload(client, ref_text="Hello.", speaker_description="calm")).json()
    assert made["success"] is True and made["voice"]["ref_text"] == "Hello."
    listed = (await client.get(VOICES)).json()
    assert [voice["id"] for voice in listed["voices"]] == [
        "default",
        "default_female",
        "default_male",
        "Anna",
    ]
    assert [voice["type"] for voice in listed["voices"]] == [*["built_in"] * 3, "audio_sample"]
    aliases = {voice["id"]: voice["aliases"] for voice in listed["voices"]}
    assert "alloy" in aliases["default_female"] and "onyx" in aliases["default_male"]
    assert sum(map(len, aliases.values())) == 13
    (voice,) = listed["uploaded_voices"]
    assert voice == made["voice"]
    assert (voice["name"], voice["consent"], voice["duration_s"]) == ("Anna", "a note", 2.0)
    assert voice["file_size"] == 44 + 2 * 48_000 and voice["speaker_description"] == "calm"
    legacy = (await client.get(VOICES, params={"legacy": "true"})).json()
    assert legacy["voices"] == ["default", "default_female", "default_male", "Anna"]


async def test_one_voice(client: httpx.AsyncClient) -> None:
    await upload(client, "小明 2")
    found = (await client.get(f"{VOICES}/小明 2")).json()
    assert found["id"] == "小明 2" and found["uploaded"]["name"] == "小明 2"
    assert (await client.get(f"{VOICES}/ONYX")).json()["id"] == "default_male"
    assert (await client.get(f"{VOICES}/default")).json()["uploaded"] is None
    assert error_of(await client.get(f"{VOICES}/nobody")) == (404, "voice_not_found", "voice_id")


async def test_own_voices_stay(client: httpx.AsyncClient) -> None:
    for name in ("default", "DEFAULT_MALE", "alloy"):
        assert error_of(await client.delete(f"{VOICES}/{name}"))[:2] == (403, "voice_built_in")
        answer = await upload(client, name)
        assert error_of(answer) == (400, "voice_name_reserved", "name")
    assert error_of(await client.delete(f"{VOICES}/nobody"))[:2] == (404, "voice_not_found")


def test_aliases_are_spread_over_what_there_is() -> None:
    from cadence.server.voice import choose_voice, voice_aliases

    found = voice_aliases(("default", "anna_female", "eve_female", "bob_male"))
    assert {found[name] for name in ("alloy", "coral", "fable")} == {"anna_female", "eve_female"}
    assert {found[name] for name in ("ash", "echo", "onyx", "default_male")} == {"bob_male"}
    plain = voice_aliases(("default", "a", "b", "c"))
    assert set(plain.values()) == {"a", "b", "c"}
    assert set(voice_aliases(("default",)).values()) == {"default"}
    info = ModelInfo(model_id="m", max_model_len=9, voices=("default", "Anna"), uploaded_voices=("Bo",))
    assert [choose_voice(info, voice=v) for v in ("anna", "BO", "ａｎｎａ", " Bo ", "Default")] == [
        "Anna",
        "Bo",
        "Anna",
        "Bo",
        "default",
    ]


async def test_a_server_without_a_folder(engine: FakeEngine) -> None:
    transport = httpx.ASGITransport(create_app(engine, ServerConfig()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get(VOICES)).json()["uploaded_voices"] == []
        assert error_of(await upload(client))[:2] == (403, "uploads_disabled")
        assert error_of(await client.delete(f"{VOICES}/x"))[:2] == (403, "uploads_disabled")
        assert (await client.get("/v1/audio/voice_consents")).status_code == 403


# ------------------------------------------------------------------ names
BAD_NAMES = [
    *("../../etc/passwd", "..", ".", "/etc/passwd", "a/b", "a\\b", "%2e%2e", "~root", "-rf", " "),
    *("a\nb", "a\tb", "\u202egnp.exe", "a\u200bb", "a" * 65, "a\x7f", "_x", "$HOME", "a;b", "a|b", "😀"),
    *("voice*", "a?b", "<script>", "a:b", "\ufeffa", "a\u2028b"),
]


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_names_that_are_none(client: httpx.AsyncClient, folder: Path, name: str) -> None:
    status, _, param = error_of(await upload(client, name))
    assert (status, param) == (400, "name")
    assert files(folder, "*.json") == []


async def test_names_never_reach_the_disk(client: httpx.AsyncClient, folder: Path) -> None:
    names = ["CON", "nul", "a.wav", "a", "Zoë", "ZOË", "O'Neil", "1", "हिन्दी", "x" * 64]
    for name in names:
        assert (await upload(client, name)).status_code == 200, name
    found = set(names_in(folder)) - {".lock"}
    assert all(name.startswith("voice_") for name in found)
    assert len(found) == 2 * (len(names) - 1)  # Zoë is one voice, however it is written
    assert names_in(folder.parent) == [folder.name]


@pytest.mark.parametrize("target", ["..%2f..%2fetc%2fpasswd", "..", "%00", "voice_0", "a%2fb"])
async def test_paths_are_not_names(client: httpx.AsyncClient, target: str) -> None:
    for method in ("GET", "DELETE"):
        assert (await client.request(method, f"{VOICES}/{target}")).status_code in (400, 404, 405)


# ------------------------------------------------------------------ limits
@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (recording(0.9), 400, "audio_too_short"),
        (recording(30.5), 413, "audio_too_long"),
        (b"", 400, "invalid_audio"),
        (b"RIFF not really a wav file", 400, "invalid_audio"),
        (recording()[:44] + bytes(96_000), 400, "audio_silent"),
    ],
    ids=["short", "long", "empty", "broken", "silent"],
)
async def test_recordings_that_are_refused(
    client: httpx.AsyncClient, folder: Path, data: bytes, status: int, code: str
) -> None:
    assert error_of(await upload(client, data=data)) == (status, code, "audio_sample")
    assert not files(folder, "voice_*")


async def test_fields_are_used_or_refused(client: httpx.AsyncClient) -> None:
    for fields, code, param in (
        ({"speaker_embedding": "[0.1]"}, "unsupported_field", "speaker_embedding"),
        ({"type": "prompt"}, "unsupported_field", "type"),
        ({"colour": "red"}, "unknown_field", "colour"),
        ({"ref_text": "x" * 200}, "text_mismatch", "ref_text"),
        ({"consent": ""}, "invalid_value", "consent"),
    ):
        assert error_of(await upload(client, **fields)) == (400, code, param)
    only = await client.post(VOICES, files={"audio_sample": ("a", recording())})
    assert error_of(only) == (400, "missing_field", "name")
    none = await client.post(VOICES, data={"name": "A", "consent": "x"}, files={"other": ("a", b"x")})
    assert error_of(none) == (400, "unknown_field", "other")
    text = [("name", (None, "A")), ("consent", (None, "x")), ("audio_sample", (None, "text"))]
    assert error_of(await client.post(VOICES, files=text)) == (400, "invalid_value", "audio_sample")
    prompt = {"type": "prompt", "name": "A", "prompt": "deep"}
    assert error_of(await client.post(VOICES, json=prompt)) == (400, "unsupported_field", "prompt")
    assert (await client.post(VOICES, content=b"x")).status_code == 415
    big = await upload(client, data=bytes(12 << 20))
    assert big.status_code == 413


async def test_the_quota(engine: FakeEngine, folder: Path) -> None:
    size = 44 + 48_000  # of one second
    config = ServerConfig(voices_dir=str(folder), max_voices=3, max_voices_bytes=4 * size)
    transport = httpx.ASGITransport(create_app(engine, config))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for name in "abc":
            assert (await upload(client, name, recording(1.0))).status_code == 200
        assert error_of(await upload(client, "d", recording(1.0)))[:2] == (400, "voice_quota_exceeded")
        assert (await upload(client, "A", recording(2.0))).status_code == 200  # takes a's place
        assert error_of(await upload(client, "b", recording(3.0)))[:2] == (400, "voice_quota_exceeded")
        await client.delete(f"{VOICES}/c")
        assert (await upload(client, "d", recording(1.0))).status_code == 200
        assert len(engine.prepared) == 2  # two recordings are kept; what was refused is freed


async def test_immutable_voices(engine: FakeEngine, folder: Path) -> None:
    config = ServerConfig(voices_dir=str(folder), voice_policy="immutable")
    transport = httpx.ASGITransport(create_app(engine, config))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        first = (await upload(client)).json()
        assert error_of(await upload(client, "ANNA", recording(pitch_hz=99))) == (409, "voice_exists", "name")
        assert (await client.get(f"{VOICES}/Anna")).json()["uploaded"] == first["voice"]
        await client.delete(f"{VOICES}/Anna")
        assert (await upload(client)).status_code == 200


# ------------------------------------------------------------------ faults
async def test_a_damaged_recording_is_a_clear_error(client: httpx.AsyncClient, folder: Path) -> None:
    await upload(client)
    (wav,) = files(folder, "*.wav")
    wav.write_bytes(wav.read_bytes()[:-2] + b"xx")
    answer = await speak(client, voice="Anna")
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "voice_damaged"
    assert str(folder) not in answer.text
    wav.unlink()
    assert (await speak(client, voice="Anna")).json()["error"]["code"] == "voice_damaged"
    assert (await upload(client)).status_code == 200
    assert (await speak(client, voice="Anna")).status_code == 200


async def test_a_damaged_description_hides_its_voice_alone(client: httpx.AsyncClient, folder: Path) -> None:
    await upload(client, "Anna")
    (meta,) = files(folder, "*.json")
    await upload(client, "Bo")
    for text in ("", "{", "[]", '{"name": 3}', "[" * 5000, "x" * 100_000):
        meta.write_text(text)
        listed = (await client.get(VOICES)).json()["uploaded_voices"]
        assert [voice["name"] for voice in listed] == ["Bo"]
        assert error_of(await speak(client, voice="Anna"))[:2] == (400, "voice_not_found")
    assert (await client.delete(f"{VOICES}/Anna")).status_code == 200
    assert len(files(folder, "voice_*")) == 2


async def test_links_are_not_followed(client: httpx.AsyncClient, folder: Path, tmp_path: Path) -> None:
    await upload(client)
    (wav,) = files(folder, "*.wav")
    secret = tmp_path / "secret.wav"
    wav.rename(secret)
    wav.symlink_to(secret)
    assert (await speak(client, voice="Anna")).json()["error"]["code"] == "voice_damaged"


async def test_a_full_disk_leaves_nothing(
    client: httpx.AsyncClient, engine: FakeEngine, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await upload(client, "Bo")
    before = set(names_in(folder))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, full)
            answer = await upload(client, "Anna", recording(pitch_hz=77))
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "storage_failed"
        assert "No space left" in answer.text and str(folder) not in answer.text
        assert len(engine.prepared) == 1
        assert set(names_in(folder)) == before
    assert (await upload(client, "Anna")).status_code == 200


async def test_a_folder_that_cannot_be_made(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = ServerConfig(voices_dir=str(tmp_path / "file" / "voices"))
    transport = httpx.ASGITransport(create_app(engine, config))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await upload(client)).json()["error"]["code"] == "storage_failed"
        assert (await client.get(VOICES)).status_code == 200


async def test_what_a_crash_left_is_cleared(client: httpx.AsyncClient, folder: Path) -> None:
    await upload(client, "Bo")
    (folder / ".tmp-left").write_bytes(b"half")
    orphan = folder / f"voice_{'0' * 32}.{'1' * 32}.wav"
    orphan.write_bytes(b"no description names this")
    foreign = folder / "speaker.safetensors"
    foreign.write_bytes(b"somebody else's")
    await upload(client, "Anna")
    assert not orphan.exists() and not (folder / ".tmp-left").exists()
    assert foreign.exists()


async def test_the_models_have_the_last_word(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    async def refuse(sample: object) -> None:
        raise InvalidAudio("No voice in it.")

    async def away(sample: object) -> None:
        raise NotReady("Restarting.")

    engine.prepare_voice = refuse  # type: ignore[method-assign, assignment]
    assert error_of(await upload(client))[:2] == (400, "invalid_audio")
    assert (await client.get(VOICES)).json()["uploaded_voices"] == []
    engine.prepare_voice = away  # type: ignore[method-assign, assignment]
    assert (await upload(client)).status_code == 200


# ------------------------------------------------------------------ races
async def test_many_uploads_of_one_name_have_one_winner(folder: Path) -> None:
    engines = [FakeEngine() for _ in range(3)]
    apps = [create_app(engine, ServerConfig(voices_dir=str(folder))) for engine in engines]
    clients = [httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") for app in apps]
    answers = await asyncio.gather(
        *(upload(clients[i % 3], "Anna", recording(1.0, pitch_hz=100 + i)) for i in range(24))
    )
    assert {answer.status_code for answer in answers} == {200}
    assert len(files(folder, "*.wav")) == len(files(folder, "*.json")) == 1
    sounds = {(await speak(client, voice="anna")).content for client in clients}
    assert len(sounds) == 1
    for client in clients:
        await client.aclose()


async def test_random_traffic_is_never_served_a_wrong_voice(folder: Path) -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    dice = random.Random(seed)
    engine = FakeEngine()
    app = create_app(engine, ServerConfig(voices_dir=str(folder)))
    pitches = [100, 200, 300]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:

        async def one(number: int) -> None:
            name = dice.choice("ab")
            kind = dice.choice(["upload", "delete", "speak", "speak", "list"])
            if kind == "upload":
                answer = await upload(client, name, recording(1.0, pitch_hz=dice.choice(pitches)))
                assert answer.status_code == 200, answer.text
            elif kind == "delete":
                assert (await client.delete(f"{VOICES}/{name}")).status_code in (200, 404)
            elif kind == "speak":
                assert (await speak(client, voice=name)).status_code in (200, 400)
            else:
                assert (await client.get(VOICES)).status_code == 200

        await asyncio.gather(*(one(number) for number in range(120)))
        listed = (await client.get(VOICES)).json()["uploaded_voices"]
        assert len(files(folder, "*.wav")) == len(listed) == len(files(folder, "*.json"))
        keys = {json.loads(path.read_text())["digest"] for path in files(folder, "*.json")}
        assert engine.prepared <= keys
        for voice in listed:
            await client.delete(f"{VOICES}/{voice['name']}")
    assert engine.prepared == set() and not files(folder, "voice_*")


# ------------------------------------------------------------------ ref_audio
async def test_a_request_brings_its_voice(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    bare = base64.b64encode(recording()).decode()
    url = f"data:audio/wav;base64,{bare}"
    for fields in (
        {"ref_audio": bare},
        {"ref_audio": url, "ref_text": "Hello.", "voice": "default"},
        {"ref_audio": [url], "task_type": "Base"},
        {"references": [{"audio_path": url, "text": "Hello."}]},
    ):
        assert (await speak(client, **fields)).status_code == 200
    keys = {request.voice_sample.key for request in engine.requests if request.voice_sample}
    assert len(keys) == 1 and len(engine.requests) == 4
    made = await upload(client)  # the same recording, now as a voice: nothing to compute again
    assert made.status_code == 200 and engine.prepared == keys


async def test_ref_audio_that_is_refused(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    def sound(**options: Any) -> str:
        return base64.b64encode(recording(**options)).decode()

    for fields, status, code, param in (
        ({"ref_audio": "!!"}, 400, "invalid_base64", "ref_audio"),
        ({"ref_audio": "file:///etc/hostname"}, 403, "forbidden", "ref_audio"),
        ({"ref_audio": "http://127.0.0.1/a.wav"}, 403, "forbidden", "ref_audio"),
        ({"ref_audio": sound(seconds=0.5)}, 400, "audio_too_short", "ref_audio"),
        ({"ref_audio": sound(seconds=31)}, 413, "audio_too_long", "ref_audio"),
        ({"ref_audio": sound(), "ref_text": "x" * 99}, 400, "text_mismatch", "ref_text"),
        ({"ref_audio": sound(), "voice": "default_male"}, 400, "conflicting_fields", "voice"),
        ({"ref_audio": [sound(), sound()]}, 400, "invalid_value", "ref_audio"),
        ({"ref_audio": []}, 400, "invalid_value", "ref_audio"),
        ({"task_type": "Base"}, 400, "conflicting_fields", "task_type"),
        ({"task_type": "CustomVoice", "ref_audio": sound()}, 400, "conflicting_fields", "task_type"),
        ({"ref_text": "Hello."}, 400, "conflicting_fields", "ref_text"),
        ({"references": [{"audio_path": "!"}]}, 400, "invalid_base64", "references.0.audio_path"),
        ({"references": [{}]}, 400, "missing_field", "references.0.audio_path"),
        ({"references": [{"audio_path": "x"}], "ref_audio": "x"}, 400, "conflicting_fields", "references"),
    ):
        assert error_of(await speak(client, **fields)) == (status, code, param), fields.keys()
    assert engine.requests == []


async def test_ref_audio_from_a_permitted_folder(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "anna.wav").write_bytes(recording())
    app = create_app(engine, ServerConfig(allowed_local_media_path=str(tmp_path)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
        answer = await speak(client, ref_audio=f"file://{tmp_path}/anna.wav")
    assert answer.status_code == 200 and engine.requests[-1].voice_sample is not None


async def test_ref_audio_from_a_url(engine: FakeEngine, site: Site) -> None:
    site.page("/anna.wav", recording(1.0))
    app = create_app(engine, ServerConfig(allowed_media_domains=("localhost",)))
    base = f"http://localhost:{site.port}"
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
        assert (await speak(client, ref_audio=f"{base}/anna.wav")).status_code == 200
        assert engine.requests[-1].voice_sample == make_sample(recording(1.0))
        gone = await speak(client, ref_audio=f"{base}/none.wav")
        assert error_of(gone) == (400, "url_fetch_failed", "ref_audio")
        other = await speak(client, ref_audio="https://example.com/a.wav")
        assert error_of(other)[::2] == (403, "ref_audio")
    assert site.num_connections == 2
