"""`cadence say`: one request."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import click

from cadence.cli.backend import connect, connection_options, failure, say_err
from cadence.errors import InvalidRequest

__all__ = ["say"]

FORMATS = ("wav", "mp3", "opus", "flac", "aac", "pcm")
SUFFIXES = {".ogg": "opus"} | {f".{name}": name for name in FORMATS}


@click.command()
@click.argument("text")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path),
    default=Path("speech.wav"),
    show_default=True,
    help="File to write; its suffix is the format. `-` is stdout.",
)
@click.option("--voice", default="default", show_default=True)
@click.option("--instructions", help="How to read: replaces the system prompt.")
@click.option("--seed", type=int, help="Same seed, same speech.")
@click.option("--sample-rate", type=click.IntRange(8_000, 48_000), help="In Hz.  [default: 24000]")
@click.option("--speed", type=click.FloatRange(0.25, 4.0), help="2 is twice as fast; the pitch stays.")
@connection_options
def say(**options: Any) -> None:
    """Speak TEXT into an audio file. TEXT `-` is read from stdin.

    Uses the server on the default port when one runs, else loads the model in this process.
    """
    asyncio.run(_say(options))


async def _say(options: dict[str, Any]) -> None:
    text = sys.stdin.read() if options["text"] == "-" else options["text"]
    output: Path = options["output"]
    to_stdout = str(output) == "-"
    body = {"input": text, "voice": options["voice"], "response_format": _format(output, to_stdout)}
    body |= {
        k: options[k] for k in ("instructions", "seed", "sample_rate", "speed") if options[k] is not None
    }
    async with connect(options["url"], options["model"], options["api_key"]) as client:
        start_s = time.perf_counter()
        # whole, not streamed: the file then carries its true length
        response = await client.post("/v1/audio/speech", json={**body, "stream": False})
        took_s = time.perf_counter() - start_s
    if response.is_error:
        raise failure(response)
    _write(output, response.content)
    if not to_stdout:
        say_err(f"{output}: {len(response.content) / 1000:.0f} kB in {took_s:.1f} s")
    if response.headers.get("X-Finish-Reason", "stop") != "stop":
        say_err("The speech was cut at its limit before the model ended it.")


def _write(output: Path, data: bytes) -> None:
    """Write a file, or stdout for `-`."""
    if str(output) == "-":
        sys.stdout.buffer.write(data)
        return
    try:
        output.write_bytes(data)
    except OSError as error:
        raise InvalidRequest(f"Cannot write {output}: {error.strerror}.") from error


def _format(output: Path, to_stdout: bool) -> str:
    """The audio format a file name asks for."""
    if to_stdout:
        return "wav"
    name = SUFFIXES.get(output.suffix.lower())
    if name is None:
        raise InvalidRequest(
            f"Cannot tell the audio format of {output}: use a suffix of {', '.join(SUFFIXES)}."
        )
    return name
