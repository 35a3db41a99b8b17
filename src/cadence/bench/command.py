"""The `bench` command: parse, probe the server, run each setting, report."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import httpx
from click.core import ParameterSource

from cadence.bench.client import RequestResult, ServerInfo, Target, probe, send
from cadence.bench.data import load_prompts
from cadence.bench.load import Run, run_closed, run_open
from cadence.bench.report import markdown, save_plot, summarise, to_json
from cadence.errors import CadenceError, ConfigError

__all__ = ["Plan", "bench", "run_plan"]

MODES = ("async_chunk", "sequential")
_STAGE_BENCHES = {
    "token2wav": "Voice set-up, first and steady chunks, whole utterances of a checkpoint's vocoder stage.",
    "growth": "Cost of a chunk and memory of a stream as speech and history grow.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure. `rates_rps` non-empty means open loop, else `concurrencies` closed loop."""

    modes: tuple[str, ...]
    concurrencies: tuple[int, ...]
    rates_rps: tuple[float, ...]
    num_requests: int
    num_warmup: int
    seed: int


async def run_plan(
    client: httpx.AsyncClient,
    target: Target,
    info: ServerInfo,
    plan: Plan,
    prompts: Sequence[str],
    say: Callable[[str], None],
) -> list[Run]:
    """Warm up once per mode, then run every load, one after another."""
    runs: list[Run] = []

    def on_result(result: RequestResult) -> None:
        if result.error:
            say(f"  failed: {result.error}")

    for mode in _modes(plan, info, say):
        chosen = target if mode == "default" else replace(target, async_chunk=mode == "async_chunk")
        for index in range(plan.num_warmup):
            on_result(await send(client, chosen, prompts[index % len(prompts)], index))
        loads: tuple[float, ...] = plan.rates_rps or plan.concurrencies
        for load in loads:
            say(f"{mode}: {plan.num_requests} requests, {load:g}{'/s' if plan.rates_rps else ' at once'} ...")
            common: dict[str, Any] = {"mode": mode, "num_requests": plan.num_requests, "on_result": on_result}
            if plan.rates_rps:
                run = await run_open(client, chosen, prompts, rate_rps=load, seed=plan.seed, **common)
            else:
                run = await run_closed(client, chosen, prompts, concurrency=int(load), **common)
            runs.append(run)
    return runs


def _modes(plan: Plan, info: ServerInfo, say: Callable[[str], None]) -> tuple[str, ...]:
    """The modes that this server can be asked for: only Cadence takes one per request."""
    if info.is_cadence:
        return plan.modes
    say("This server is not Cadence: --modes does not apply, it runs as it was started.")
    return ("default",)


def _numbers(kind: type[int] | type[float]) -> Callable[[Any, Any, str], tuple[Any, ...]]:
    """A click callback that reads `1,2,4`."""

    def parse(_ctx: Any, _param: Any, value: str) -> tuple[Any, ...]:
        try:
            numbers = tuple(kind(item) for item in value.split(",") if item.strip())
        except ValueError as error:
            raise click.BadParameter(f"expected numbers between commas, got {value!r}") from error
        if any(n <= 0 for n in numbers):
            raise click.BadParameter(f"must be above zero, got {value!r}")
        return numbers

    return parse


def _parse_modes(_ctx: Any, _param: Any, value: str) -> tuple[str, ...]:
    modes = tuple(dict.fromkeys(item.strip() for item in value.split(",") if item.strip()))
    if unknown := [m for m in modes if m not in MODES]:
        raise click.BadParameter(f"unknown mode {unknown[0]!r}; choose from {', '.join(MODES)}")
    return modes


class _CannotMeasure(click.ClickException):
    """One line on stderr; exit code 1 is for requests that failed."""

    exit_code = 2


class _WithStages(click.Group):
    """The load generator, with the benchmarks of single stages as subcommands, imported when they run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names, in the table's order."""
        return list(_STAGE_BENCHES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one; None when there is none of this name."""
        if cmd_name not in _STAGE_BENCHES:
            return None
        command: click.Command = getattr(import_module("cadence.bench.stage_commands"), cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list for --help, without importing anything."""
        with formatter.section("Without a server"):
            formatter.write_dl(list(_STAGE_BENCHES.items()))


@click.group(cls=_WithStages, invoke_without_command=True)
@click.option("--url", default="http://127.0.0.1:8092", show_default=True, help="Server to measure.")
@click.option("--endpoint", type=click.Choice(["speech", "chat"]), default="speech", show_default=True)
@click.option("--model", help="Model name to send.  [default: the first one the server lists]")
@click.option("--voice", default="default", show_default=True)
@click.option("--response-format", type=click.Choice(["pcm", "wav"]), default="pcm", show_default=True)
@click.option("--stream-format", type=click.Choice(["audio", "sse"]), default="audio", show_default=True)
@click.option("--modes", default="async_chunk,sequential", show_default=True, callback=_parse_modes)
@click.option(
    "--concurrency", default="1", show_default=True, callback=_numbers(int), help="Such as 1,2,4,8."
)
@click.option(
    "--rate", default="", callback=_numbers(float), help="Arrivals a second (open loop), such as 0.5,1,2."
)
@click.option(
    "--num-requests", type=click.IntRange(1), default=10, show_default=True, help="Per mode and load."
)
@click.option("--warmup", type=click.IntRange(0), default=1, show_default=True, help="Unmeasured requests.")
@click.option(
    "--prompts",
    type=click.Path(path_type=Path),
    help="Text file, one prompt a line.  [default: ten built-in]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Arrival times and sampling.")
@click.option("--api-key", envvar="CADENCE_API_KEY", help="Or set CADENCE_API_KEY.")
@click.option("--timeout", type=float, default=900.0, show_default=True, help="Seconds per read.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write every measurement here.")
@click.option(
    "--plot", "plot_path", type=click.Path(path_type=Path), help="Draw the figures (needs matplotlib)."
)
@click.pass_context
def bench(ctx: click.Context, /, **options: Any) -> None:
    """Measure a running server: time to first packet, whole latency, real-time factor, gaps.

    Works against any server with OpenAI's /v1/audio/speech. Against Cadence it also compares streaming
    between the stages (async_chunk) with whole-utterance rendering (sequential).
    """
    if ctx.invoked_subcommand is not None:
        given = [n for n in options if ctx.get_parameter_source(n) is ParameterSource.COMMANDLINE]
        if given:
            raise click.UsageError(f"Options of {ctx.invoked_subcommand} go behind its name.")
        return
    try:
        failed = asyncio.run(_main(options))
    except CadenceError as error:
        raise _CannotMeasure(str(error)) from error
    if failed:
        sys.exit(1)


async def _main(options: dict[str, Any]) -> bool:
    """Run the plan and write the reports; True when any request failed."""
    prompts, url = load_prompts(options["prompts"]), options["url"].rstrip("/")
    headers = {"Authorization": f"Bearer {options['api_key'] or 'EMPTY'}"}
    timeout = httpx.Timeout(options["timeout"], connect=5.0)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)

    def say(line: str) -> None:
        click.echo(line, err=True)

    async with httpx.AsyncClient(headers=headers, timeout=timeout, limits=limits) as client:
        info = await probe(client, url)
        target = Target(
            url=url,
            endpoint=options["endpoint"],
            model=options["model"] or info.model,
            voice=options["voice"],
            response_format=options["response_format"],
            stream_format=options["stream_format"],
            extra={"seed": options["seed"]},
        )
        plan = Plan(
            modes=options["modes"],
            concurrencies=options["concurrency"],
            rates_rps=options["rate"],
            num_requests=options["num_requests"],
            num_warmup=options["warmup"],
            seed=options["seed"],
        )
        kind = "Cadence" if info.is_cadence else "version"
        say(f"{target.model} at {url} ({kind} {info.version or 'unknown'})")
        runs = await run_plan(client, target, info, plan, prompts, say)
    summaries = [summarise(run) for run in runs]
    click.echo(markdown(summaries))
    context: dict[str, Any] = {
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "model": target.model,
        "server_version": info.version,
        "endpoint": target.endpoint,
        "prompts": list(prompts),
    }
    if options["json_path"]:
        options["json_path"].write_text(json.dumps(to_json(context, runs), indent=1) + "\n")
    if options["plot_path"]:
        try:
            save_plot(summaries, options["plot_path"])
        except ImportError as error:
            raise ConfigError("--plot needs matplotlib.", hint="pip install 'cadence[bench]'") from error
    return any(s.num_failed for s in summaries)
