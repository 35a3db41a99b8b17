"""One request to a server, timed. Knows the OpenAI wire shapes and nothing of what serves them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx

from cadence.bench.meter import SoundMeter
from cadence.errors import ServiceError

__all__ = ["RequestResult", "ServerInfo", "Target", "probe", "send"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where and how to ask: `endpoint` is "speech" or "chat", `stream_format` "audio" (bare bytes) or "sse"
    for speech; `async_chunk` None leaves it unsaid."""

    url: str
    endpoint: str = "speech"
    model: str = ""
    voice: str = "default"
    response_format: str = "pcm"
    stream_format: str = "audio"
    async_chunk: bool | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestResult:
    """One measured request. Times in seconds from its sending; `error` is empty on success."""

    prompt_index: int
    sent_s: float
    ttfp_s: float | None = None
    e2e_s: float = 0.0
    audio_s: float = 0.0
    underrun_s: float = 0.0
    num_bytes: int = 0
    error: str = ""

    @property
    def rtf(self) -> float | None:
        """Real-time factor: latency / duration of the sound; None without sound."""
        return self.e2e_s / self.audio_s if self.audio_s else None


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What answers: the first model it lists, its version, and whether it is Cadence."""

    model: str
    version: str
    is_cadence: bool


async def probe(client: httpx.AsyncClient, url: str) -> ServerInfo:
    """Ask a server what it is.

    Raises:
        ServiceError: nothing answers at `url`, or it lists no model.
    """
    try:
        listed = await client.get(f"{url}/v1/models")
        listed.raise_for_status()
        first = listed.json()["data"][0]
        model, owner = str(first["id"]), str(first.get("owned_by", ""))
    except (httpx.HTTPError, ValueError, KeyError, IndexError, TypeError) as error:
        raise ServiceError(
            f"No OpenAI-compatible server answers at {url} ({type(error).__name__}: {error}).",
            hint="Start one with `cadence serve`, or pass --url.",
        ) from error
    version = ""
    answer = await client.get(f"{url}/version")
    if answer.is_success and "json" in answer.headers.get("content-type", ""):
        version = str(answer.json().get("version", ""))
    return ServerInfo(model, version, owner == "cadence")


def _body(target: Target, text: str) -> tuple[str, dict[str, Any]]:
    """(route, JSON body) that make a server stream sound for `text`."""
    own = {} if target.async_chunk is None else {"async_chunk": target.async_chunk}
    if target.endpoint == "speech":
        return "/v1/audio/speech", {
            "model": target.model,
            "input": text,
            "voice": target.voice,
            "response_format": target.response_format,
            "stream_format": target.stream_format,
            **own,
            **target.extra,
        }
    return "/v1/chat/completions", {
        "model": target.model,
        "messages": [{"role": "user", "content": text}],
        "modalities": ["text", "audio"],
        "audio": {"voice": target.voice, "format": "pcm16"},
        "stream": True,
        **own,
        **target.extra,
    }


async def _event_audio(response: httpx.Response) -> AsyncIterator[bytes]:
    """Sound in the events of a speech or chat stream; an error event raises."""
    async for line in response.aiter_lines():
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        event = json.loads(line[6:])
        if event.get("error"):
            error = event["error"]
            raise ServiceError(str(error.get("message", error) if isinstance(error, dict) else error))
        found = [event.get("audio") if event.get("type") == "speech.audio.delta" else None]
        found += [(choice["delta"].get("audio") or {}).get("data") for choice in event.get("choices", [])]
        for data in found:
            if data:
                yield base64.b64decode(data)


async def send(client: httpx.AsyncClient, target: Target, text: str, index: int) -> RequestResult:
    """Send one request, read it to its end, and measure. Failures are results, not exceptions."""
    route, body = _body(target, text)
    start_s = time.perf_counter()
    meter, num_bytes, error = SoundMeter(start_s), 0, ""
    try:
        async with client.stream("POST", f"{target.url}{route}", json=body) as response:
            if response.is_error:
                await response.aread()
                error = f"HTTP {response.status_code}: {response.text[:200]}"
            else:
                bare = target.endpoint == "speech" and target.stream_format == "audio"
                parts = response.aiter_bytes() if bare else _event_audio(response)
                async for data in parts:
                    meter.feed(data, time.perf_counter())
                    num_bytes += len(data)
    except (httpx.HTTPError, ServiceError, json.JSONDecodeError, KeyError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    if not error and not meter.duration_s:
        error = "no sound in the answer"
    return RequestResult(
        prompt_index=index,
        sent_s=start_s,
        ttfp_s=meter.ttfp_s,
        e2e_s=time.perf_counter() - start_s,
        audio_s=meter.duration_s,
        underrun_s=meter.underrun_s,
        num_bytes=num_bytes,
        error=error,
    )
