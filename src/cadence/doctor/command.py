"""The `doctor` command."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from rich.console import Console

__all__ = ["doctor"]

PLAIN_WIDTH = 160  # columns when the output goes to a file


@click.command()
@click.argument("model", required=False, type=click.Path(path_type=Path))
@click.option(
    "--golden",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of golden arrays that the reference computed on this checkpoint.",
)
@click.option(
    "--rtol",
    type=click.FloatRange(0, min_open=True),
    default=1e-3,
    show_default=True,
    help="Largest error allowed, in standard deviations of the reference.",
)
@click.option("--threads", type=click.IntRange(1), help="CPU threads.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the checks here.")
def doctor(
    model: Path | None, golden: Path | None, rtol: float, threads: int | None, json_path: Path | None
) -> None:
    """Check the checkpoint folder MODEL part by part; with --golden also its numbers.

    Every problem is named; the exit code is 1 when there is one. Numbers are computed in float32.
    """
    from cadence.cli.default_model import default_model
    from cadence.doctor.checkpoint import check_checkpoint
    from cadence.doctor.golden import check_golden
    from cadence.doctor.report import Report

    console = Console(highlight=False, width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    root = model or default_model(lambda line: click.echo(line, err=True))[0]
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    report = Report(rtol=rtol)
    with console.status(f"Checking {root}"):
        parts = check_checkpoint(root, report)
        if golden is not None:
            check_golden(parts, golden, report)
    report.print(console)
    if json_path is not None:
        rows: list[dict[str, Any]] = [asdict(check) for check in report.checks]
        json_path.write_text(json.dumps({"model": str(root), "rtol": rtol, "checks": rows}, indent=1) + "\n")
    sys.exit(bool(report.num_failed))
