"""`cadence chat`: a conversation in the terminal, with ears and a voice when asked."""

from __future__ import annotations

import asyncio
import base64
import json
import wave
from pathlib import Path
from typing import Any

import click
import httpx

from cadence.cli.backend import audio_part, connect, connection_options, failure, say_err
from cadence.errors import ServiceError
from cadence.types import OUTPUT_RATE_HZ

__all__ = ["chat"]

PCM_WIDTH_BYTES = 2


@click.command()
@click.argument("text", required=False)
@click.option(
    "--audio",
    "-a",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Sound to add to the first message.",
)
@click.option("--system", default="You are a helpful assistant.", show_default=True)
@click.option(
    "--speak",
    "-o",
    type=click.Path(path_type=Path),
    help="Answer with speech, written here as WAV (answer.wav, answer-2.wav, ...).",
)
@click.option("--voice", default="default", show_default=True)
@click.option("--max-tokens", type=click.IntRange(1), default=1024, show_default=True)
@connection_options
def chat(**options: Any) -> None:
    """Talk with the model. With TEXT or --audio: one answer; without: a conversation, one line a turn."""
    asyncio.run(_chat(options))


async def _chat(options: dict[str, Any]) -> None:
    messages: list[dict[str, Any]] = [{"role": "system", "content": options["system"]}]
    once = options["text"] is not None or options["audio"] is not None
    line: str | None = options["text"] or ("" if once else _ask())
    num_turns = 0
    async with connect(options["url"], options["model"], options["api_key"]) as client:
        while line is not None:
            messages.append(
                {"role": "user", "content": _content(line, None if num_turns else options["audio"])}
            )
            text, sound = await _answer(client, messages, options)
            num_turns += 1
            if options["speak"] and sound:
                _write_wav(_turn_path(options["speak"], num_turns), sound)
            messages.append({"role": "assistant", "content": text})
            line = None if once else _ask()


def _ask() -> str | None:
    """The next line of the user; None at the end of input."""
    try:
        line: str = click.prompt("you", prompt_suffix="> ", default="", show_default=False, err=True)
    except click.Abort:  # Ctrl-D and Ctrl-C
        say_err("")
        return None
    return line or None


def _content(text: str, audio: Path | None) -> list[dict[str, Any]]:
    """Content parts of one user message."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    if audio is not None:
        parts.insert(0, audio_part(audio))
    return parts


async def _answer(
    client: httpx.AsyncClient, messages: list[dict[str, Any]], options: dict[str, Any]
) -> tuple[str, bytes]:
    """Stream one answer to stdout; (its text, its sound as 16-bit PCM)."""
    body: dict[str, Any] = {"messages": messages, "stream": True, "max_tokens": options["max_tokens"]}
    body["modalities"] = ["text", "audio"] if options["speak"] else ["text"]
    if options["speak"]:
        body["audio"] = {"voice": options["voice"], "format": "pcm16"}
    text, sound = "", b""
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.is_error:
            await response.aread()
            raise failure(response)
        async for event in _events(response):
            delta = event["choices"][0]["delta"] if event.get("choices") else {}
            audio = delta.get("audio") or {}
            new = (delta.get("content") or "") + (audio.get("transcript") or "")
            click.echo(new, nl=False)
            text += new
            sound += base64.b64decode(audio.get("data") or "")
    click.echo()
    return text, sound


async def _events(response: httpx.Response) -> Any:
    """JSON of each server-sent event; an error event raises."""
    async for line in response.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            event = json.loads(line[6:])
            if "error" in event:
                raise ServiceError(str(event["error"].get("message", event["error"])))
            yield event


def _turn_path(path: Path, turn: int) -> Path:
    """answer.wav, then answer-2.wav, ..."""
    return path if turn == 1 else path.with_stem(f"{path.stem}-{turn}")


def _write_wav(path: Path, pcm: bytes) -> None:
    """Write 24 kHz mono 16-bit PCM as WAV."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(PCM_WIDTH_BYTES)
        file.setframerate(OUTPUT_RATE_HZ)
        file.writeframes(pcm)
    say_err(f"{path}: {len(pcm) / PCM_WIDTH_BYTES / OUTPUT_RATE_HZ:.1f} s")
