"""`cadence serve`: flags and YAML to a `ServeConfig`, then load, then listen."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from cadence.cli.default_model import default_model
from cadence.cli.options import ServeCommand
from cadence.cli.progress import LoadingDisplay
from cadence.cli.voices import voices_dir_option
from cadence.config import ServeConfig
from cadence.deploy import load_deploy_config
from cadence.errors import ConfigError
from cadence.types import ModelInfo

__all__ = ["build_config", "notices", "serve"]

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LOOPBACK = {"127.0.0.1", "::1", "localhost"}
# flags of `vllm serve` that change nothing here, and why
NO_EFFECT = {
    "omni": "--omni is not needed: text and speech are always served.",
    "trust_remote_code": "--trust-remote-code is not needed: no remote code is run.",
    "gpu_memory_utilization": "--gpu-memory-utilization does not apply: --max-num-seqs bounds memory.",
    "tensor_parallel_size": "--tensor-parallel-size does not apply: each stage runs on one device.",
}


@click.command(cls=ServeCommand)
@click.argument("model", required=False)
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="[default: 8092]")
@click.option("--device", help="auto, cpu, cuda, cuda:1, mps.  [default: auto]")
@click.option("--dtype", help="auto, float32, bfloat16, float16.  [default: auto]")
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="CPU threads of each stage.  [default: the cores, shared out between the stages]",
)
@click.option(
    "--deploy-config",
    "--stage-configs-path",
    "deploy_config",
    type=click.Path(path_type=Path),
    help="vLLM-Omni stage YAML, either schema.",
)
@click.option(
    "--async-chunk/--no-async-chunk", default=None, help="Speak while still thinking.  [default: on]"
)
@click.option("--served-model-name", multiple=True, help="Names that requests may use; several allowed.")
@click.option("--api-key", multiple=True, help="Keys that requests must carry one of; several allowed.")
@click.option(
    "--thinker-weights",
    type=click.Choice(["plain", "int8"]),
    help="int8: faster on a CPU, not exact.  [plain]",
)
@click.option(
    "--first-chunk",
    type=click.IntRange(1, 25),
    help="Speech codes of 40 ms in an answer's first chunk; 160 ms of it are held back.  [default: 5]",
)
@click.option(
    "--flow-steps", type=click.IntRange(1, 100), help="Solver steps of the vocoder stage; fewer are faster."
)
@click.option(
    "--flow-weights", type=click.Choice(["plain", "int8"]), help="int8: faster on a CPU, not exact.  [plain]"
)
@click.option(
    "--flow-cache",
    type=click.Choice(["plain", "float16", "bfloat16"]),
    help="Smaller streams, not exact.  [plain]",
)
@click.option(
    "--vocoder-weights",
    type=click.Choice(["plain", "bfloat16"]),
    help="bfloat16: faster on a CPU that has it, not exact.  [plain]",
)
@click.option(
    "--flow-window",
    type=click.FloatRange(0.5, 30.0),
    help="Seconds a stream looks back on, at most the voice's recording.  [default: as much]",
)
@click.option(
    "--flow-history",
    type=click.FloatRange(5.0, 100.0),
    help="Seconds of its speech that a stream's encoder attends to.  [default: the checkpoint's, or 100]",
)
@click.option("--max-num-seqs", type=click.IntRange(1), help="Requests computed at once, per stage.")
@click.option("--max-model-len", type=click.IntRange(1), help="Context length in tokens.")
@click.option("--max-num-batched-tokens", type=click.IntRange(1), help="Tokens per step of the Thinker.")
@click.option(
    "--enable-prefix-caching/--no-enable-prefix-caching",
    default=None,
    help="Compute the beginning that two prompts share only once.  [default: on]",
)
@click.option("--enforce-eager", is_flag=True, help="On a GPU: launch every step, without CUDA graphs.")
@click.option("--in-process", is_flag=True, help="Run both stages in this process, without workers.")
@click.option("--allowed-origins", multiple=True, help="Browser origins that may call; several allowed.")
@click.option("--allowed-local-media-path", help="Folder that file:// audio may come from.")
@click.option("--allowed-media-domains", multiple=True, help="Hosts that audio URLs may point to.")
@click.option(
    "--url-fetch/--no-url-fetch", default=None, help="Fetch audio from URLs.  [default: on, public hosts]"
)
@click.option(
    "--playground/--no-playground", default=None, help="The page at / to try everything on.  [default: on]"
)
@click.option("--default-voice", help="Voice of requests that name none.")
@click.option("--default-prompt-wav", help="Recording to take the default voice from.")
@voices_dir_option
@click.option(
    "--voice-uploads",
    type=click.Choice(["overwrite", "immutable", "off"]),
    envvar=("CADENCE_VOICE_UPLOADS", "VLLM_OMNI_SPEAKER_REGISTRATION_POLICY"),
    default="overwrite",
    show_default=True,
    help="What a second voice of one name does, or no uploads at all.",
)
@click.option(
    "--max-voices", type=click.IntRange(1), envvar="SPEAKER_MAX_UPLOADED", help="[default: 1000 uploaded]"
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
@click.option("--omni", is_flag=True, hidden=True)
@click.option("--trust-remote-code", is_flag=True, hidden=True)
@click.option("--gpu-memory-utilization", type=float, hidden=True)
@click.option("--tensor-parallel-size", "-tp", type=int, hidden=True)
def serve(**options: Any) -> None:
    """Serve MODEL, a checkpoint folder or a Hugging Face id, over the OpenAI API.

    Without MODEL, the one inside the package. The flags of `vllm serve --omni` work; API keys may also
    come from CADENCE_API_KEY or VLLM_API_KEY.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    logging.basicConfig(level=options["log_level"].upper(), format=LOG_FORMAT)
    if options["log_level"] == "info":
        logging.getLogger("uvicorn").setLevel(logging.WARNING)  # what it says at info, we say better
    for line in notices(options):
        console.print(f"Note: {line}", style="dim")
    config = build_config(options, say=lambda line: console.print(line, markup=False))
    if config.server.host not in LOOPBACK and not config.server.api_keys:
        console.print(
            f"Warning: listening on {config.server.host} without an API key: "
            "whoever reaches this port can use it. Set --api-key.",
            style="yellow",
        )
    asyncio.run(_serve(config, console))


def notices(options: Mapping[str, Any]) -> list[str]:
    """One line for each given flag that changes nothing."""
    return [line for name, line in NO_EFFECT.items() if options[name] not in (False, None)]


def build_config(options: Mapping[str, Any], say: Callable[[str], object]) -> ServeConfig:
    """Flags over the YAML file over defaults. Flags that were not given leave the rest alone.

    Raises:
        ConfigError: a value or file is wrong, or the model cannot be found.
    """
    if options["deploy_config"] is None:
        base = ServeConfig(model="")
    else:
        base = load_deploy_config(options["deploy_config"], say=say)
    stage = _given(options, "device", "dtype", "threads", "max_num_seqs")
    if options["enforce_eager"]:
        stage["enforce_eager"] = True
    of_vocoder = ("default_voice", "default_prompt_wav", "flow_weights", "flow_cache", "vocoder_weights")
    token2wav = stage | _given(options, *of_vocoder)
    if options["flow_steps"] is not None:
        token2wav["num_steps"] = options["flow_steps"]
    if options["first_chunk"] is not None:
        token2wav["schedule"] = replace(base.token2wav.schedule, first=options["first_chunk"])
    if options["flow_window"] is not None:
        token2wav["flow_window_s"] = options["flow_window"]
    if options["flow_history"] is not None:
        token2wav["flow_history_s"] = options["flow_history"]
    thinker = stage | _given(options, "max_model_len", "max_num_batched_tokens", "enable_prefix_caching")
    if options["thinker_weights"] is not None:
        thinker["weights"] = options["thinker_weights"]
    engine = _given(options, "async_chunk") | ({"in_process": True} if options["in_process"] else {})
    server = _given(options, "host", "port", "allowed_local_media_path", "max_voices", "playground")
    if options["voice_uploads"] != "off":
        server |= {"voices_dir": options["voices_dir"], "voice_policy": options["voice_uploads"]}
    if options["url_fetch"] is not None:
        server["allow_url_fetch"] = options["url_fetch"]
    for name in ("allowed_origins", "allowed_media_domains"):
        if options[name]:
            server[name] = options[name]
    if keys := options["api_key"] or _keys_of_environment():
        server["api_keys"] = keys
    model, names = options["model"], options["served_model_name"]
    if not model:
        path, name = default_model(say)
        model, names = str(path), names or (name,)
    return replace(
        base,
        model=model,
        served_model_names=names,
        thinker=replace(base.thinker, **thinker),
        token2wav=replace(base.token2wav, **token2wav),
        engine=replace(base.engine, **engine),
        server=replace(base.server, **server),
    )


def _given(options: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Those of the named options that were given."""
    return {name: options[name] for name in names if options[name] is not None}


def _keys_of_environment() -> tuple[str, ...]:
    """Keys of CADENCE_API_KEY or VLLM_API_KEY, several between commas."""
    text = os.environ.get("CADENCE_API_KEY") or os.environ.get("VLLM_API_KEY") or ""
    return tuple(key.strip() for key in text.split(",") if key.strip())


async def _serve(config: ServeConfig, console: Console) -> None:
    """Load with a progress display, then answer requests until a signal comes."""
    from cadence.engine import start_engine
    from cadence.server.app import run_server

    _check_address(config.server.host, config.server.port)
    console.print(f"Loading {config.model}", markup=False)
    with LoadingDisplay(console) as display:
        engine = await start_engine(config, progress=display.report)
    try:
        page = config.server.playground
        await run_server(
            engine, config.server, on_listening=lambda url: _invite(console, url, engine.info, page)
        )
    finally:
        await engine.aclose()


def _check_address(host: str, port: int) -> None:
    """Fail before minutes of loading when the address cannot be listened on.

    Raises:
        ConfigError: taken, or not an address of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"Cannot listen on {host} port {port}: {reason}.", param="--port") from error


def _invite(console: Console, url: str, info: ModelInfo, page: bool) -> None:
    """Where the server and its page are, what it serves, and a first thing to try."""
    label = ", random weights" if info.random_weights else ""
    voices = f"; voices: {', '.join(info.voices)}" if info.voices else ""
    console.print(f"Cadence is ready: [bold]{url}[/] ({info.model_id}{label}{voices})")
    if page:
        console.print(f"Playground: [bold]{url}/[/] in a browser: speak, listen, talk")
    if info.can_speak:
        route, body = "audio/speech", '{"input": "Hello, this is Cadence."}'
        target = " -o hello.wav"
    else:
        route, body = "chat/completions", '{"messages": [{"role": "user", "content": "Hello."}]}'
        target = ""
    header = "Content-Type: application/json"
    console.print(f"Try: curl {url}/v1/{route} -H '{header}' -d '{body}'{target}", markup=False)
