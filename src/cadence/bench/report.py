"""From measured requests to tables, JSON and a plot."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cadence.bench.load import Run

__all__ = ["GAP_S", "Summary", "markdown", "percentile", "save_plot", "summarise", "to_json"]

GAP_S = 0.1  # a stall longer than this is heard: the stream then counts as not continuous
FULL_HEAD = (
    *("Mode", "Load", "OK", "Failed", "TTFP p50", "TTFP p95", "E2E p50", "E2E p95"),
    *("RTF p50", "RTF p95", "Audio s/s", "Gap-free", "Worst stall"),
)
TITLES = {"async_chunk": "Async Chunk", "sequential": "Sequential", "default": "Server's own"}


def percentile(values: Iterable[float], share: float) -> float:
    """Linear interpolation between the closest ranks; NaN of nothing. `share` is 0..1."""
    ranked = sorted(values)
    if not ranked:
        return math.nan
    at = share * (len(ranked) - 1)
    low = math.floor(at)
    high = min(low + 1, len(ranked) - 1)
    return ranked[low] + (ranked[high] - ranked[low]) * (at - low)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """Mean, median and 95th percentile; NaN when nothing was measured."""

    mean: float
    p50: float
    p95: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Stat:
        """Statistics of a list."""
        mean = sum(values) / len(values) if values else math.nan
        return cls(mean=mean, p50=percentile(values, 0.5), p95=percentile(values, 0.95))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """One row of the report. Times in seconds; `audio_per_s` is seconds of sound per second;
    `continuous` the share of answers that a player plays without a stall over `GAP_S`."""

    mode: str
    concurrency: int | None
    rate_rps: float | None
    num_ok: int
    num_failed: int
    ttfp: Stat
    e2e: Stat
    rtf: Stat
    audio_per_s: float
    requests_per_s: float
    continuous: float
    worst_underrun_s: float
    errors: tuple[str, ...]

    @property
    def load(self) -> str:
        """The load in words: `4` callers or `2/s`."""
        return f"{self.rate_rps:g}/s" if self.concurrency is None else str(self.concurrency)


def summarise(run: Run) -> Summary:
    """Figures of one run; failed requests count as failed and nowhere else."""
    ok = [r for r in run.results if not r.error]
    return Summary(
        mode=run.mode,
        concurrency=run.concurrency,
        rate_rps=run.rate_rps,
        num_ok=len(ok),
        num_failed=len(run.results) - len(ok),
        ttfp=Stat.of([r.ttfp_s for r in ok if r.ttfp_s is not None]),
        e2e=Stat.of([r.e2e_s for r in ok]),
        rtf=Stat.of([r.rtf for r in ok if r.rtf is not None]),
        audio_per_s=sum(r.audio_s for r in ok) / run.wall_s,
        requests_per_s=len(ok) / run.wall_s,
        continuous=sum(r.underrun_s <= GAP_S for r in ok) / len(ok) if ok else math.nan,
        worst_underrun_s=max((r.underrun_s for r in ok), default=math.nan),
        errors=tuple(sorted({r.error for r in run.results if r.error})),
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(summaries: Sequence[Summary]) -> str:
    """Two Markdown tables: the short one (mode, mean TTFP, E2E, RTF) and the full one."""
    several = len({s.load for s in summaries}) > 1
    short = _table(
        ["Mode", "Mean TTFP", "Mean E2E", "Mean RTF"],
        (
            [
                TITLES.get(s.mode, s.mode) + (f" (load {s.load})" if several else ""),
                f"{s.ttfp.mean * 1e3:.0f}ms",
                f"{s.e2e.mean * 1e3:.0f}ms",
                f"{s.rtf.mean:.3f}",
            ]
            for s in summaries
        ),
    )
    full = _table(
        FULL_HEAD,
        (
            [
                TITLES.get(s.mode, s.mode),
                s.load,
                str(s.num_ok),
                str(s.num_failed),
                f"{s.ttfp.p50 * 1e3:.0f}ms",
                f"{s.ttfp.p95 * 1e3:.0f}ms",
                f"{s.e2e.p50 * 1e3:.0f}ms",
                f"{s.e2e.p95 * 1e3:.0f}ms",
                f"{s.rtf.p50:.3f}",
                f"{s.rtf.p95:.3f}",
                f"{s.audio_per_s:.2f}",
                f"{s.continuous:.0%}",
                f"{s.worst_underrun_s * 1e3:.0f}ms",
            ]
            for s in summaries
        ),
    )
    return f"{short}\n\n{full}"


def _finite(value: Any) -> Any:
    """NaN is not JSON: null instead, at any depth."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(context: dict[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    """Everything measured, as plain data: settings, one summary per run, and every request."""
    return {
        **context,
        "definitions": {
            "ttfp_s": "first byte of sound, after any WAV header, minus send",
            "e2e_s": "last byte minus send",
            "rtf": "e2e_s / seconds of sound",
            "underrun_s": "total stall of a player that starts at the first sound",
            "continuous": f"share of answers with underrun_s <= {GAP_S}",
        },
        "runs": [
            {
                "summary": _finite(asdict(summarise(run))),
                "requests": [_finite(asdict(r)) for r in run.results],
            }
            for run in runs
        ],
    }


def save_plot(summaries: Sequence[Summary], path: Path) -> None:
    """TTFP, RTF and throughput against load, one line per mode, as an image file.

    Raises:
        ImportError: matplotlib is not installed (extra `cadence[bench]`).
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    for mode in dict.fromkeys(s.mode for s in summaries):
        rows = [s for s in summaries if s.mode == mode]
        load = [s.load for s in rows]
        label = TITLES.get(mode, mode)
        axes[0].plot(load, [s.ttfp.p50 * 1e3 for s in rows], "o-", label=f"{label}, median")
        axes[0].plot(load, [s.ttfp.p95 * 1e3 for s in rows], "^--", label=f"{label}, 95 %", alpha=0.6)
        axes[1].plot(load, [s.rtf.mean for s in rows], "o-", label=label)
        axes[2].plot(load, [s.audio_per_s for s in rows], "o-", label=label)
    axes[1].axhline(1.0, color="grey", linewidth=0.8)
    for axis, title in zip(axes, ("first sound, ms", "mean RTF", "seconds of sound per second"), strict=True):
        axis.set_title(title)
        axis.set_xlabel("concurrent requests, or arrivals a second")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)
