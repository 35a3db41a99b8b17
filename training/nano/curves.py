"""Loss curves of every trained stage as PNG, from the logs: `python -m training.nano.curves [FOLDER]`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from training.nano import settings


def read_log(file: Path) -> dict[str, tuple[list[int], list[float]]]:
    """Series by name: (steps, values). A step logged twice, after a resume, counts once."""
    by_step: dict[str, dict[int, float]] = {}
    for line in file.read_text().splitlines():
        entry = json.loads(line)
        for name, value in entry.items():
            if name not in ("step", "seconds"):
                by_step.setdefault(name, {})[entry["step"]] = value
    return {name: (sorted(points), [points[s] for s in sorted(points)]) for name, points in by_step.items()}


def draw(stage: str, file: Path, out: Path) -> None:
    """One picture: every series of a stage in its own panel, validation beside training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    series = read_log(file)
    names = [
        name for name in series if not name.startswith("val_") or name.removeprefix("val_") not in series
    ]
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(4 * columns, 2.6 * rows), squeeze=False)
    for axis, name in zip(axes.flat, names, strict=False):
        axis.plot(*series[name], linewidth=1)
        if f"val_{name}" in series:
            axis.plot(*series[f"val_{name}"], "o-", markersize=3)
        axis.set_title(name, fontsize=9)
        axis.grid(alpha=0.3)
    figure.suptitle(stage)
    figure.tight_layout()
    figure.savefig(out / f"{stage}.png", dpi=70)
    pyplot.close(figure)


def run(out: str = "") -> dict[str, float]:
    """Draw every stage that has a log."""
    folder = Path(out) if out else settings.work_dir() / "curves"
    folder.mkdir(parents=True, exist_ok=True)
    logs = sorted((settings.work_dir() / "stages").glob("*/log.jsonl"))
    for file in logs:
        draw(file.parent.name, file, folder)
    return {"curves": len(logs)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", default="")
    print(run(parser.parse_args().out))
