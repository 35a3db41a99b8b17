"""`bench token2wav`, `bench growth`: a stage alone, without a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cadence.bench.growth import measure_growth
from cadence.bench.stage import machine
from cadence.bench.token2wav import measure_token2wav
from cadence.config import Token2WavConfig

__all__ = ["growth", "token2wav"]

_NANO = Path(__file__).parents[1] / "nano"


def _common(command: Callable[..., None]) -> Callable[..., None]:
    """The options of both."""
    folder = click.Path(path_type=Path, exists=True, file_okay=False)
    file = click.Path(path_type=Path, exists=True, dir_okay=False)
    for option in reversed(
        [
            click.option(
                "--checkpoint", type=folder, default=_NANO, help="Folder.  [default: the built-in model]"
            ),
            click.option("--voice", type=file, help="Recording.  [default: the checkpoint's female voice]"),
            click.option("--threads", type=click.IntRange(1), default=1, show_default=True),
            click.option("--dtype", default="float32", show_default=True),
            click.option(
                "--steps", type=click.IntRange(1), help="Of the solver.  [default: the checkpoint's]"
            ),
            click.option("--flow-weights", type=click.Choice(["plain", "int8"]), default="plain"),
            click.option(
                "--flow-cache", type=click.Choice(["plain", "float16", "bfloat16"]), default="plain"
            ),
            click.option("--vocoder-weights", type=click.Choice(["plain", "bfloat16"]), default="plain"),
            click.option("--flow-window", type=float, help="Seconds.  [default: the recording's]"),
            click.option("--flow-history", type=float, help="Seconds.  [default: the checkpoint's, or 100]"),
            click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures here."),
        ]
    ):
        command = option(command)
    return command


@click.command()
@_common
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Figures are medians.")
@click.option("--offline/--no-offline", default=True, show_default=True, help="Render ten seconds at once.")
def token2wav(rounds: int, offline: bool, **options: Any) -> None:
    """Time a checkpoint's vocoder stage: seconds, and GFLOP/s of its DiT beside this machine's peak."""
    checkpoint, voice, config = _asked(options)
    figures = measure_token2wav(checkpoint, voice, config, rounds=rounds, offline=offline)
    _report("token2wav", figures, options["json_path"])


@click.command()
@_common
@click.option("--chunks", type=click.IntRange(4), default=200, show_default=True, help="Of one long stream.")
def growth(chunks: int, **options: Any) -> None:
    """Time early and late chunks of one stream, and weigh streams and voices."""
    checkpoint, voice, config = _asked(options)
    _report("growth", measure_growth(checkpoint, voice, config, chunks=chunks), options["json_path"])


def _asked(options: dict[str, Any]) -> tuple[Path, Path, Token2WavConfig]:
    checkpoint: Path = options["checkpoint"]
    config = Token2WavConfig(
        device="cpu",
        dtype=options["dtype"],
        threads=options["threads"],
        num_steps=options["steps"],
        flow_weights=options["flow_weights"],
        flow_cache=options["flow_cache"],
        vocoder_weights=options["vocoder_weights"],
        flow_window_s=options["flow_window"],
        flow_history_s=options["flow_history"],
    )
    return checkpoint, options["voice"] or checkpoint / "assets" / "default_female.wav", config


def _report(name: str, figures: dict[str, Any], json_path: Path | None) -> None:
    """Print every single figure; write all of them."""
    for key, value in figures.items():
        if isinstance(value, int | float):
            click.echo(f"{key:26} {value:.4g}")
    if json_path:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        report = {"bench": name, "machine": machine(), **figures}
        json_path.write_text(json.dumps(report, indent=1) + "\n")
