"""Where `say`, `transcribe`, `chat` and `voices` send their requests: a server, or an engine of their own.

Both are reached through the same HTTP interface, so a command has one code path. The own engine
answers in process; no port is opened.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click
import httpx

from cadence.errors import CadenceError, InvalidRequest, NotReady, ServiceError

__all__ = ["DEFAULT_URL", "answers", "audio_part", "connect", "connection_options", "failure", "say_err"]

DEFAULT_URL = "http://127.0.0.1:8092"
TIMEOUT = httpx.Timeout(900.0, connect=5.0)


def say_err(line: str) -> None:
    """A line for people, on stderr: stdout stays for results."""
    click.echo(line, err=True)


def connection_options(command: Any) -> Any:
    """The options that every client command shares."""
    options = (
        click.option("--url", help=f"Server to use.  [default: {DEFAULT_URL} when one answers there]"),
        click.option("--model", "-m", help="Checkpoint folder or id to run in this process instead."),
        click.option("--api-key", envvar="CADENCE_API_KEY", help="Or set CADENCE_API_KEY."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@contextlib.asynccontextmanager
async def connect(
    url: str | None, model: str | None, api_key: str | None
) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose base URL is a running server, or an engine started for this command.

    Raises:
        NotReady: nothing answers at `url`.
        ConfigError: `model` cannot be loaded.
    """
    headers = {"Authorization": f"Bearer {api_key or 'EMPTY'}"}
    if url is None and model is None and await answers(DEFAULT_URL):
        url = DEFAULT_URL
    if url is not None and model is not None:
        raise InvalidRequest("--url and --model exclude each other: a server already has its model.")
    if url is not None:
        if not await answers(url):
            raise NotReady(f"No server answers at {url}.", hint="Start one with `cadence serve`.")
        async with httpx.AsyncClient(base_url=url.rstrip("/"), headers=headers, timeout=TIMEOUT) as client:
            try:
                yield client
            except httpx.HTTPError as error:
                raise ServiceError(
                    f"The connection to {url} failed: {error or type(error).__name__}."
                ) from error
    else:
        async with (
            _own_engine(model) as transport,
            httpx.AsyncClient(base_url="http://in-process", transport=transport, timeout=TIMEOUT) as client,
        ):
            yield client


async def answers(url: str) -> bool:
    """Whether an HTTP server listens at `url`."""
    try:
        async with httpx.AsyncClient(timeout=httpx.Timeout(5.0, connect=1.0)) as client:
            await client.get(f"{url.rstrip('/')}/health")
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return True


@contextlib.asynccontextmanager
async def _own_engine(model: str | None) -> AsyncIterator[httpx.ASGITransport]:
    """Start an engine in this process and put the HTTP app before it."""
    from rich.console import Console

    from cadence.cli.default_model import default_model
    from cadence.cli.progress import LoadingDisplay
    from cadence.cli.voices import default_voices_dir
    from cadence.config import EngineConfig, ServeConfig, ServerConfig
    from cadence.engine import start_engine
    from cadence.server.app import create_app

    root = Path(model) if model else default_model(say_err)[0]
    folder = os.environ.get("CADENCE_VOICES_DIR") or os.environ.get("SPEAKER_SAMPLES_DIR")
    server = ServerConfig(voices_dir=folder or str(default_voices_dir()))
    config = ServeConfig(model=str(root), engine=EngineConfig(in_process=True), server=server)
    with LoadingDisplay(Console(stderr=True)) as display:
        engine = await start_engine(config, progress=display.report)
    try:
        app = create_app(engine, config.server)
        async with app.router.lifespan_context(app):
            yield httpx.ASGITransport(app)
    finally:
        await engine.aclose()


def audio_part(file: Path) -> dict[str, Any]:
    """An audio file as an OpenAI content part.

    Raises:
        InvalidRequest: the file cannot be read.
    """
    try:
        data = base64.b64encode(file.read_bytes()).decode()
    except OSError as error:
        raise InvalidRequest(f"Cannot read {file}: {error.strerror}.") from error
    return {"type": "input_audio", "input_audio": {"data": data, "format": file.suffix.lstrip(".") or "wav"}}


def failure(response: httpx.Response) -> CadenceError:
    """The error of a read response, with the server's own message."""
    try:
        error = response.json()["error"]
        message = error["message"] if isinstance(error, dict) else str(error)
    except (ValueError, KeyError, TypeError):
        message = response.text[:200] or response.reason_phrase
    return ServiceError(f"The server refused ({response.status_code}): {message}")
