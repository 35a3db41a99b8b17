"""Word times, cleaned text and batches of `/v1/audio/speech`."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import wave
from typing import Any

import httpx
import openai
import pytest

from cadence.errors import StageFailed
from cadence.fake import FakeEngine, FakeFault
from cadence.server.speech_batch import _AT_ONCE
from cadence.types import Request

from .conftest import Live, until
from .sse import read_events

TEXT = "One word, then three more."


def test_words_in_the_header_of_the_sync_client(live: Live) -> None:
    with openai.OpenAI(base_url=f"{live.url}/v1", api_key="EMPTY", max_retries=0) as client:
        answer = client.audio.speech.create(
            model="fake", voice="default", input=TEXT, speed=2.0, extra_body={"word_timestamps": True}
        )
    words = json.loads(answer.response.headers["x-word-timestamps"])
    assert [word["word"] for word in words] == TEXT.split()
    starts = [word["start"] for word in words]
    assert starts == sorted(starts) and starts[0] == 0
    with wave.open(io.BytesIO(answer.content)) as file:  # whole: a header cannot come later
        assert words[-1]["end"] == pytest.approx(file.getnframes() / 24_000, abs=0.001)


async def test_a_header_that_is_too_long_says_so(client: httpx.AsyncClient) -> None:
    body = {"input": "many words " * 60, "word_timestamps": True}
    answer = await client.post("/v1/audio/speech", json=body)
    assert answer.headers["x-word-timestamps-omitted"] == "too_long"
    assert "x-word-timestamps" not in answer.headers


async def test_words_in_events_beside_their_sound(client: httpx.AsyncClient) -> None:
    body = {"input": TEXT, "word_timestamps": True, "stream_format": "sse", "response_format": "opus"}
    events = read_events((await client.post("/v1/audio/speech", json=body)).text)
    names = [name for name, _ in events]
    words = [word for name, data in events if name == "speech.audio.words" for word in data["words"]]
    assert [word["word"] for word in words] == TEXT.split()
    assert names.index("speech.audio.words") < len(names) - 3, "they come on the way, not at the end"
    assert names[-1] == "speech.audio.done"
    plain = read_events((await client.post("/v1/audio/speech", json={**body, "word_timestamps": False})).text)
    assert "speech.audio.words" not in {name for name, _ in plain}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "**Hi** 🎉 there"),
        ({"normalize": True}, "Hi there"),
        ({"markdown": True}, "Hi 🎉 there"),
        ({"emoji": True}, "**Hi** there"),
        ({"normalize": True, "emoji": False}, "Hi 🎉 there"),
    ],
)
async def test_cleaning_is_an_option(
    client: httpx.AsyncClient, engine: FakeEngine, options: dict[str, bool], said: str
) -> None:
    body = {"input": "**Hi** 🎉 there", "normalization_options": options}
    assert (await client.post("/v1/audio/speech", json=body)).status_code == 200
    assert engine.requests[-1].verbatim == said


# ------------------------------------------------------------------ batches
async def batch(client: httpx.AsyncClient, *items: Any, **defaults: Any) -> httpx.Response:
    return await client.post("/v1/audio/speech/batch", json={"items": list(items), **defaults})


async def test_a_batch_has_the_files_of_single_requests(client: httpx.AsyncClient) -> None:
    items = [
        {"input": "First."},
        {"input": "The second.", "voice": "default_male", "response_format": "flac"},
    ]
    answer = (await batch(client, *items, seed=3, response_format="wav")).json()
    assert (answer["total"], answer["succeeded"], answer["failed"]) == (2, 2, 0)
    assert [result["media_type"] for result in answer["results"]] == ["audio/wav", "audio/flac"]
    for item, result in zip(items, answer["results"], strict=True):
        alone = await client.post("/v1/audio/speech", json={"seed": 3, "stream": False, **item})
        assert base64.b64decode(result["audio_data"]) == alone.content
        assert (result["status"], result["finish_reason"], result["error"]) == ("success", "stop", None)
        assert result["usage"]["output_tokens"] > 0


async def test_an_item_fails_alone(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    def fault(request: Request) -> FakeFault | None:
        return FakeFault(2, StageFailed("The stage broke.")) if request.verbatim == "Break." else None

    engine.fault = fault
    items = [{"input": "Good."}, {"input": ""}, {"voice": "x", "input": "Hi."}, {"input": "Break."}, {}]
    answer = (await batch(client, *items, {"input": "Hi.", "stream": True})).json()
    assert [result["index"] for result in answer["results"]] == [0, 1, 2, 3, 4, 5]
    assert (answer["succeeded"], answer["failed"]) == (1, 5)
    errors = [result["error"] for result in answer["results"][1:]]
    assert [error["param"] for error in errors] == ["input", "voice", None, "input", "stream"]
    assert errors[2]["message"] == "The stage broke."
    assert all(result["audio_data"] is None for result in answer["results"][1:])


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "items"),
        ({"items": []}, "items"),
        ({"items": [{"input": "x"}] * 33}, "items"),
        ({"items": ["x"]}, "items.0"),
        ({"items": [{"input": "x"}], "speed": 9}, "speed"),
        ({"items": [{"input": "x"}], "model": "gpt-9"}, "model"),
        ({"items": [{"input": "a" * 60_000}, {"input": "b" * 60_000}]}, "items"),
    ],
)
async def test_a_batch_that_is_wrong_as_a_whole(
    client: httpx.AsyncClient, engine: FakeEngine, body: dict[str, Any], param: str
) -> None:
    answer = await client.post("/v1/audio/speech/batch", json=body)
    assert answer.status_code in (400, 404)
    assert answer.json()["error"]["param"] == param
    assert engine.requests == []


async def test_a_batch_leaves_room_for_others_and_ends_with_its_client(live: Live) -> None:
    live.engine.delay_s = 0.05
    items = [{"input": f"Text number {i} is read."} for i in range(20)]
    async with live.http() as client:
        asking = asyncio.create_task(batch(client, *items))
        await until(lambda: live.engine.num_active == _AT_ONCE)
        asking.cancel()
        await asyncio.wait({asking})
    await until(lambda: live.engine.num_active == 0)
    assert live.engine.num_aborted == _AT_ONCE
    assert len(live.engine.requests) == _AT_ONCE
