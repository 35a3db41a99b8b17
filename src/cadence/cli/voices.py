"""`cadence voices`: list, add and remove voices, on a server or in the folder that servers share."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import httpx

from cadence.cli.backend import DEFAULT_URL, answers, connect, connection_options, failure, say_err
from cadence.errors import InvalidRequest, NotFound

__all__ = ["default_voices_dir", "voices", "voices_dir_option"]

VOICES = "/v1/audio/voices"
# vLLM-Omni's name for the same folder is read as well, so that its deployments need no change.
FOLDER_ENV = ("CADENCE_VOICES_DIR", "SPEAKER_SAMPLES_DIR")


def default_voices_dir() -> Path:
    """The platform's folder for what users make: it cannot be made again, so it is no cache."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "cadence" / "voices"
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "cadence" / "voices"


def voices_dir_option(command: Any) -> Any:
    """`--voices-dir`, for every command that reads the folder."""
    return click.option(
        "--voices-dir",
        envvar=FOLDER_ENV,
        default=lambda: str(default_voices_dir()),
        help="Folder of uploaded voices; servers may share it.  [default: in the user's data folder]",
    )(command)


@click.group(invoke_without_command=True)
@connection_options
@click.pass_context
def voices(context: click.Context, /, **options: Any) -> None:
    """List, add and remove voices."""
    context.obj = options
    if context.invoked_subcommand is None:
        asyncio.run(_list(options))
    elif context.invoked_subcommand != "list" and options["model"]:
        raise InvalidRequest("Voices belong to a server or a folder, not to a model: leave --model out.")


def _merged(context: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    """What was given before the subcommand's name counts as well."""
    return {
        **options,
        **{name: value for name, value in context.obj.items() if value and not options.get(name)},
    }


@voices.command("list")
@connection_options
@click.pass_context
def list_voices(context: click.Context, /, **options: Any) -> None:
    """List the voices, the default first; a line each, with the aliases."""
    asyncio.run(_list(_merged(context, options)))


async def _list(options: dict[str, Any]) -> None:
    async with connect(options["url"], options["model"], options["api_key"]) as client:
        response = await client.get(VOICES)
    if response.is_error:
        raise failure(response)
    for voice in response.json()["voices"]:
        if not isinstance(voice, dict):
            click.echo(voice)
            continue
        aliases = voice.get("aliases") or ()
        click.echo(f"{voice['id']}\t{', '.join(aliases)}" if aliases else voice["id"])


@voices.command()
@click.argument("name")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--consent", required=True, help="Who allowed it: the id of a consent, or a note of one.")
@click.option("--text", help="What the recording says.")
@click.option("--url", help=f"Server to use.  [default: {DEFAULT_URL} when one answers there]")
@click.option("--api-key", envvar="CADENCE_API_KEY", help="Or set CADENCE_API_KEY.")
@voices_dir_option
@click.pass_context
def add(context: click.Context, /, **options: Any) -> None:
    """Keep FILE, 1 to 30 s of one speaker, as the voice NAME.

    Needs no server; those that run and share the folder can speak with it at once.
    """
    asyncio.run(_add(_merged(context, options)))


async def _add(options: dict[str, Any]) -> None:
    name, file = options["name"], options["file"]
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"Cannot read {file}: {error.strerror}.") from error
    form = {"name": name, "consent": options["consent"]} | (
        {"ref_text": options["text"]} if options["text"] else {}
    )
    response = await _ask(options, "POST", VOICES, data=form, files={"audio_sample": (file.name, data)})
    if response is None:
        await asyncio.to_thread(_add_to_folder, options, data)
    say_err(f'{name} is a voice now: cadence say --voice {name!r} "Hello."')


def _add_to_folder(options: dict[str, Any], data: bytes) -> None:
    from cadence.server.voice import is_reserved
    from cadence.types import ModelInfo
    from cadence.voices.sample import make_sample

    if is_reserved(ModelInfo(model_id="", max_model_len=0, voices=()), options["name"]):
        raise InvalidRequest(f"The name {options['name']!r} belongs to the model.", param="name")
    sample = make_sample(data, text=options["text"])
    _library(options).add(
        options["name"], sample, consent=options["consent"], ref_text=options["text"] or None
    )


@voices.command()
@click.argument("name")
@click.option("--url", help=f"Server to use.  [default: {DEFAULT_URL} when one answers there]")
@click.option("--api-key", envvar="CADENCE_API_KEY", help="Or set CADENCE_API_KEY.")
@voices_dir_option
@click.pass_context
def remove(context: click.Context, /, **options: Any) -> None:
    """Remove the voice NAME. Answers that speak with it just now are finished."""
    asyncio.run(_remove(_merged(context, options)))


async def _remove(options: dict[str, Any]) -> None:
    name = options["name"]
    response = await _ask(options, "DELETE", f"{VOICES}/{quote(name, safe='')}")
    if response is None and not await asyncio.to_thread(_library(options).remove, name):
        raise NotFound(f"There is no voice {name!r} in {options['voices_dir']}.", param="name")
    say_err(f"{name} is removed.")


async def _ask(options: dict[str, Any], method: str, path: str, **content: Any) -> httpx.Response | None:
    """The server's answer; None when no server is named and none answers: then the folder is meant."""
    if options["url"] is None and not await answers(DEFAULT_URL):
        return None
    async with connect(options["url"], None, options["api_key"]) as client:
        response = await client.request(method, path, **content)
    if response.is_error:
        raise failure(response)
    return response


def _library(options: dict[str, Any]) -> Any:
    from cadence.config import ServerConfig
    from cadence.voices.library import VoiceLibrary

    limits = ServerConfig()
    return VoiceLibrary(
        Path(options["voices_dir"]).expanduser(),
        max_voices=limits.max_voices,
        max_bytes=limits.max_voices_bytes,
    )
