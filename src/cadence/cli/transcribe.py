"""`cadence transcribe`: a sound file of any length to text or subtitles."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click
import httpx

from cadence.cli.backend import connect, connection_options, failure, say_err
from cadence.errors import InvalidRequest, ServiceError

__all__ = ["transcribe"]

FORMATS = ("text", "srt", "vtt", "json", "verbose_json")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--format",
    "-f",
    "kind",
    type=click.Choice(FORMATS),
    help="Of the output.  [default: by --output, or text]",
)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="File to write instead of stdout.")
@click.option("--language", "-l", help="What is spoken, as an ISO 639-1 code (en, zh, ...).")
@click.option("--translate", is_flag=True, help="Write it down in English.")
@click.option("--prompt", help="What was said before, or words as they are to be written.")
@click.option("--temperature", type=click.FloatRange(0.0, 2.0), help="0 is the most exact.")
@click.option("--max-tokens", type=click.IntRange(1), help="For each piece of at most 25 s.")
@connection_options
def transcribe(**options: Any) -> None:
    """Write down what the audio FILE says: any common format, any length.

    The text appears as it is written. Uses the server on the default port when one runs, else loads the
    model in this process.
    """
    asyncio.run(_transcribe(options))


async def _transcribe(options: dict[str, Any]) -> None:
    output: Path | None = options["output"]
    kind = options["kind"] or _format_of(output)
    path = f"/v1/audio/{'translations' if options['translate'] else 'transcriptions'}"
    names = {"language": "language", "prompt": "prompt", "temperature": "temperature"}
    names["max_tokens"] = "max_completion_tokens"
    fields = {names[key]: str(options[key]) for key in names if options[key] is not None}
    live = kind == "text" and output is None
    fields |= {"stream": "true"} if live else {"response_format": kind}
    with _open(options["file"]) as sound:
        async with connect(options["url"], options["model"], options["api_key"]) as client:
            request = client.build_request("POST", path, data=fields, files={"file": ("audio", sound)})
            response = await client.send(request, stream=True)
            try:
                if response.is_error:
                    await response.aread()
                    raise failure(response)
                reason = await (_print_events(response) if live else _write(response, output))
            finally:
                await response.aclose()
    if reason == "length":
        say_err("A part was cut off at its limit of tokens.")


def _format_of(output: Path | None) -> str:
    """The format that a file's suffix asks for."""
    suffix = output.suffix.lstrip(".").lower() if output else "text"
    return {"srt": "srt", "vtt": "vtt", "json": "verbose_json"}.get(suffix, "text")


def _open(file: Path) -> Any:
    try:
        return file.open("rb")
    except OSError as error:
        raise InvalidRequest(f"Cannot read {file}: {error.strerror}.") from error


async def _print_events(response: httpx.Response) -> str:
    """Print the text as it comes; how it ended."""
    reason = "stop"
    async for line in response.aiter_lines():
        if not line.startswith("data: {"):
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            click.echo()
            raise ServiceError(str(event["error"].get("message", event["error"])))
        if event["type"] == "transcript.text.delta":
            click.echo(event["delta"], nl=False)
        elif event["type"] == "transcript.text.done":
            reason = event.get("finish_reason", reason)
    click.echo()
    return reason


async def _write(response: httpx.Response, output: Path | None) -> str:
    """Write the answer as it is; how it ended."""
    text = (await response.aread()).decode()
    if output is None:
        click.echo(text, nl=not text.endswith("\n"))
    else:
        await asyncio.to_thread(_write_file, output, text)
    return str(response.headers.get("X-Finish-Reason", "stop"))


def _write_file(output: Path, text: str) -> None:
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"Cannot write {output}: {error.strerror}.") from error
