"""What the existing clients of Step-Audio 2 send, word for word, and what they read of the answer."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from cadence.audio.encode import encode_wav
from cadence.config import ServerConfig
from cadence.fake import FakeEngine
from cadence.types import ModelInfo, SamplingParams

from .conftest import Live, run_live

MODEL = "stepfun-ai/Step-Audio2-mini"
EXAMPLES = Path(__file__).parents[2] / "examples"
INFO = ModelInfo(
    model_id="stepfun-ai/Step-Audio-2-mini", aliases=(MODEL,), max_model_len=16384, voices=("default",)
)
THINKER = {
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": -1,
    "max_tokens": 1024,
    "seed": 42,
    "detokenize": True,
    "repetition_penalty": 1.05,
}
TOKEN2WAV = {
    "temperature": 0.0,
    "top_p": 1.0,
    "top_k": -1,
    "max_tokens": 1,
    "seed": 42,
    "detokenize": False,
}
DEFAULTS = {
    "text": SamplingParams(repetition_penalty=1.05, top_p=0.9, max_tokens=2048),
    "speech": SamplingParams(repetition_penalty=1.05, top_p=0.9),
}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(info=INFO, default_sampling=DEFAULTS)


def recording() -> str:
    samples = np.zeros(16_000, np.float32)
    return "data:audio/wav;base64," + base64.b64encode(encode_wav(samples, 16_000)).decode()


def payload(system: str, text: str, *, hears: bool, thinker: dict[str, Any]) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if hears:
        content.insert(0, {"type": "audio_url", "audio_url": {"url": recording()}})
    return {
        "model": MODEL,
        "sampling_params_list": [thinker, TOKEN2WAV],
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": system}]},
            {"role": "user", "content": content},
        ],
    }


async def ask(client: httpx.AsyncClient, body: dict[str, Any]) -> dict[str, Any]:
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["message"]


async def test_audio_to_text(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    thinker = {**THINKER, "stop_token_ids": [151645]}
    body = payload("Transcribe the audio.", "Please transcribe this audio.", hears=True, thinker=thinker)
    message = await ask(client, body)
    assert "I heard 1.00 seconds of audio." in message["content"]
    assert "audio" not in message
    request = engine.requests[-1]
    assert request.output == "text"
    expected = {k: v for k, v in THINKER.items() if k != "detokenize"}
    assert request.sampling == SamplingParams(**expected, stop_token_ids=(151645,))  # type: ignore[arg-type]
    assert request.audio_seed == 42


@pytest.mark.parametrize("hears", [False, True])
async def test_to_audio(client: httpx.AsyncClient, engine: FakeEngine, hears: bool) -> None:
    body = payload("Read it.", "Hello, this is a test.<tts_start>", hears=hears, thinker=THINKER)
    message = await ask(client, body)
    assert message["content"] == message["audio"]["transcript"]
    assert "<tts_start>" not in message["content"]
    assert base64.b64decode(message["audio"]["data"])[:4] == b"RIFF"
    assert engine.requests[-1].output == "speech"


async def test_short_list_is_laid_over_the_defaults(client: httpx.AsyncClient, engine: FakeEngine) -> None:
    body = payload("x", "y", hears=False, thinker={"temperature": 0.7, "max_tokens": 1024})
    await ask(client, body)
    assert engine.requests[-1].sampling == SamplingParams(
        temperature=0.7, max_tokens=1024, repetition_penalty=1.05, top_p=0.9
    )


async def test_speech_payload(client: httpx.AsyncClient) -> None:
    for model in (MODEL, INFO.model_id):
        for response_format in ("wav", "pcm"):
            body = {
                "model": model,
                "input": "你好世界",
                "voice": "default",
                "response_format": response_format,
            }
            headers = {"Authorization": "Bearer EMPTY"}
            answer = await client.post("/v1/audio/speech", json=body, headers=headers)
            assert answer.status_code == 200
            assert not answer.content.startswith(b'{"error"')


async def test_both_names_are_listed(client: httpx.AsyncClient) -> None:
    models = (await client.get("/v1/models")).json()["data"]
    assert [(model["id"], model["root"]) for model in models] == [
        (INFO.model_id, INFO.model_id),
        (MODEL, INFO.model_id),
    ]
    assert (await client.get(f"/v1/models/{MODEL}")).json()["id"] == MODEL


@pytest.fixture
def seed_live(engine: FakeEngine) -> Any:
    with run_live(engine, ServerConfig()) as live:
        yield live


def run_example(name: str, live: Live, *arguments: str, base: str = "") -> str:
    command = [sys.executable, str(EXAMPLES / name), "--api-base", live.url + base, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_speech_example(seed_live: Live, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    run_example("openai_speech_client.py", seed_live, "--text", "你好世界", "-o", str(out))
    assert out.read_bytes()[:4] == b"RIFF"


def test_chat_example(seed_live: Live, tmp_path: Path) -> None:
    options = ("-q", "text_to_audio", "-t", "Hello, welcome.", "-o", str(tmp_path))
    printed = run_example("openai_chat_completion_client.py", seed_live, *options, base="/v1")
    assert "Hello, welcome." in printed
    assert (tmp_path / "audio_0.wav").read_bytes()[:4] == b"RIFF"
