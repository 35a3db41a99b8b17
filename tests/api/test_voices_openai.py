"""Voices and consents as the official client makes and uses them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from cadence.fake import FakeEngine
from cadence.runtime.fake_stages import tone

from .conftest import Live
from .voice_kit import keeping, recording


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    with keeping(tmp_path / "voices") as live:
        yield live


async def speak(client: openai.AsyncOpenAI, voice: object, **extra: object) -> bytes:
    answer = await client.audio.speech.create(
        model="fake",
        voice=voice,  # type: ignore[arg-type]
        input="Hello there.",
        response_format="pcm",
        extra_body={"seed": 1, **extra},
    )
    return answer.content


async def test_consent_then_voice_then_speech(live: Live) -> None:
    async with live.openai() as client:
        consent = await client.audio.voice_consents.create(
            name="Anna agrees", language="en-US", recording=("yes.wav", recording(3.0))
        )
        assert consent.object == "audio.voice_consent" and consent.id.startswith("cons_")
        voice = await client.audio.voices.create(
            name="Anna", consent=consent.id, audio_sample=("anna.wav", recording(pitch_hz=300))
        )
        assert (voice.id, voice.name, voice.object, voice.type) == (
            "Anna",
            "Anna",
            "audio.voice",
            "audio_sample",
        )
        assert voice.created_at > 1_700_000_000
        named = await speak(client, "anna")  # at once, and in any case
        assert await speak(client, {"id": voice.id}) == named != await speak(client, "default")
        assert (await speak(client, "default", speaker=None)) == await speak(client, "default")
        gone = await client.audio.voices.delete(voice.id)
        assert (gone.id, gone.deleted, gone.object) == ("Anna", True, "audio.voice.deleted")
        with pytest.raises(openai.NotFoundError):
            await client.audio.voices.delete(voice.id)
        with pytest.raises(openai.BadRequestError, match="default_female, default_male"):
            await speak(client, "Anna")


async def test_an_uploaded_voice_in_chat(live: Live) -> None:
    async with live.openai() as client:
        await client.audio.voices.create(name="Anna", consent="a note", audio_sample=("a", recording()))
        for where in ({"audio": {"voice": "ANNA", "format": "wav"}}, {"audio": {"voice": {"id": "Anna"}}}):
            audio = {"format": "wav", **where["audio"]}
            answer = await client.chat.completions.create(
                model="fake",
                messages=[{"role": "user", "content": "Hi."}],
                modalities=["text", "audio"],
                audio=audio,  # type: ignore[arg-type]
            )
            assert answer.choices[0].message.audio is not None
            request = live.engine.requests[-1]
            assert request.voice == "Anna" and request.voice_sample is not None
        written = await client.chat.completions.create(
            model="fake", messages=[{"role": "user", "content": "Hi."}], extra_body={"voice": "Anna"}
        )
        assert written.choices[0].message.content and live.engine.requests[-1].voice_sample is None


async def test_consents_are_listed_in_pages_and_changed(live: Live) -> None:
    async with live.openai() as client:
        consents = client.audio.voice_consents
        ids = []
        for number in range(5):
            made = await consents.create(
                name=f"c{number}", language="zh", recording=("r.wav", recording(1.0))
            )
            ids.append(made.id)
        assert len((await consents.list()).data) == 5
        page = await consents.list(limit=2)
        assert page.has_more and len(page.data) == 2
        assert {consent.id async for consent in consents.list(limit=2)} == set(ids)
        assert (await consents.update(ids[0], name="renamed")).name == "renamed"
        assert (await consents.retrieve(ids[0])).name == "renamed"
        assert (await consents.delete(ids[0])).deleted
        for gone in (consents.retrieve, consents.delete):
            with pytest.raises(openai.NotFoundError):
                await gone(ids[0])
        with pytest.raises(openai.NotFoundError):
            await consents.update(ids[0], name="x")
        with pytest.raises(openai.BadRequestError) as caught:
            await consents.list(after=ids[0])
        assert caught.value.param == "after"
        with pytest.raises(openai.BadRequestError) as caught:
            await client.audio.voices.create(name="A", consent=ids[0], audio_sample=("a", recording()))
        assert (caught.value.param, caught.value.code) == ("consent", "consent_not_found")


async def test_voices_from_descriptions_are_refused(live: Live) -> None:
    async with live.openai() as client:
        with pytest.raises((openai.BadRequestError, openai.APIStatusError)) as caught:
            await client.audio.voices.create(name="A", prompt="a deep voice", type="prompt")
    assert caught.value.status_code == 400
    assert caught.value.code in ("unsupported_field", "invalid_form"), caught.value


async def test_delete_and_upload_again_never_speaks_with_the_old_voice(live: Live) -> None:
    async with live.openai() as client:
        sounds, keys = [], []
        for pitch_hz in (150.0, 250.0, 350.0):
            await client.audio.voices.create(
                name="Anna", consent="x", audio_sample=("a", recording(pitch_hz=pitch_hz))
            )
            sounds.append(await speak(client, "Anna"))
            sample = live.engine.requests[-1].voice_sample
            assert sample is not None
            keys.append(sample.key)
            assert live.engine.prepared == {sample.key}  # prepared before it was asked for, the old one freed
            if pitch_hz == 250.0:
                await client.audio.voices.delete("anna")
                assert live.engine.prepared == set()
    assert len(set(sounds)) == len(set(keys)) == 3
    expected = (tone(keys[-1], 1, 0, 960) * 32767).astype("<i2").tobytes()
    assert sounds[-1].startswith(expected)


async def test_two_servers_share_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "voices"
    with keeping(folder) as one, keeping(folder, FakeEngine()) as two:
        async with one.openai() as here, two.openai() as there:
            await here.audio.voices.create(name="Anna", consent="x", audio_sample=("a", recording()))
            sound = await speak(there, "anna")
            assert sound == await speak(here, "anna")
            await here.audio.voices.create(
                name="Anna", consent="x", audio_sample=("a", recording(pitch_hz=90))
            )
            assert await speak(there, "anna") == await speak(here, "anna") != sound
            await there.audio.voices.delete("Anna")
            with pytest.raises(openai.BadRequestError):
                await speak(here, "anna")
            await here.audio.voices.create(name="Bo", consent="x", audio_sample=("a", recording()))
            await speak(there, "Bo")
            assert len(two.engine.prepared) == 0  # a server that did not take the upload prepares on use
    with keeping(folder) as again:  # and all of it outlives a restart
        async with again.openai() as client:
            assert await speak(client, "bo")


async def test_a_stream_finishes_with_a_voice_that_is_deleted_meanwhile(live: Live) -> None:
    async with live.openai() as client:
        await client.audio.voices.create(name="Anna", consent="x", audio_sample=("a", recording()))
        whole = await speak(client, "Anna")
        live.engine.delay_s = 0.05
        create = client.audio.speech.with_streaming_response.create
        async with create(
            model="fake", voice="Anna", input="Hello there.", response_format="pcm", extra_body={"seed": 1}
        ) as answer:
            chunks = answer.iter_bytes()
            first = await anext(chunks)
            await client.audio.voices.delete("Anna")
            rest = [chunk async for chunk in chunks]
        live.engine.delay_s = 0.0
    assert b"".join([first, *rest]) == whole
