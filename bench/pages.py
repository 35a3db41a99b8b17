"""From the benchmarks' JSON to the tables and plots of docs/performance.md; pure but for the drawing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Report = Mapping[str, Any]
_MARK = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def fill(page: str, tables: Mapping[str, str]) -> str:
    """Put each table between its marks, `<!-- bench: NAME -->` and `<!-- end -->`; others stay.

    Raises:
        ValueError: the page has no place for a table.
    """
    places = {match[2] for match in _MARK.finditer(page)}
    if strangers := tables.keys() - places:
        raise ValueError(f"no <!-- bench: {sorted(strangers)[0]} --> on the page")
    return _MARK.sub(
        lambda match: f"{match[1]}{tables[match[2]]}\n{match[3]}" if match[2] in tables else match[0], page
    )


def machine(report: Report) -> str:
    """One line on what was measured where."""
    where = report["machine"]
    return (
        f"{where['cpu']}, {where['cores']} cores, {where['threads']} thread(s) used, "
        f"torch {where['torch']} ({where['capability']})"
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def token2wav(report: Report) -> str:
    """What a voice, a chunk and an utterance cost."""
    parts = ", ".join(f"{part} {_ms(report[f'steady_{part}_s'])}" for part in ("encoder", "dit", "hift"))
    rows = [
        [f"voice set-up, once per voice ({report['prompt_s']} s of recording)", _ms(report["voice_setup_s"])],
        [
            f"first chunk of a prepared voice ({report['first_chunk_codes']} + 3 codes)",
            _ms(report["warm_first_chunk_s"]),
        ],
        ["first sample out of the vocoder", _ms(report["first_sound_s"])],
        ["steady chunk, 1 s of sound", f"{_ms(report['steady_chunk_s'])} ({parts})"],
        [
            "four streams in a batch, each 1 s of sound",
            f"{_ms(report['batch_4_chunk_s'])} ({report['batch_4_ratio']:.2f} times one)",
        ],
        *([["10 s at once", _ms(report["offline_10s_s"])]] if "offline_10s_s" in report else []),
        [
            "DiT beside this machine's float32 peak",
            f"{report['dit_gflops']:.0f} of {report['matmul_peak_gflops']:.0f} GFLOP/s "
            f"({report['dit_share_of_peak']:.0%})",
        ],
    ]
    return f"{machine(report)}\n\n{table(['what', 'time'], rows)}"


def growth(report: Report) -> str:
    """What grows, and what does not."""
    count = report["chunks"]
    rows = [
        ["chunk 4", _ms(report["chunk_4_s"])],
        [f"chunk {count}", f"{_ms(report[f'chunk_{count}_s'])} ({report['chunk_ratio']:.2f} times chunk 4)"],
        [
            "memory of a stream after chunk 4",
            f"{_mb(report['session_bytes_chunk_4'])} "
            f"({report['chunk_4_to_window']:.2f} times the keys and values that its attention sees)",
        ],
        [
            "memory of a stream half-way / at the end",
            _pair(report, "session_bytes_half_way", "session_bytes"),
        ],
        ["keys and values of one frame", _mb(report["frame_bytes"])],
        [
            f"the voice, with no stream / with {report['num_streams']} of them",
            _pair(report, "voice_bytes", "voice_bytes_with_streams"),
        ],
    ]
    return f"{machine(report)}\n\n{table(['what', 'figure'], rows)}"


def thinker(report: Report) -> str:
    """Tokens a second of both sides, where both ran."""
    head = ["model", "batch", "prefill tok/s", "decode tok/s", "transformers, decode", "ratio"]
    rows = []
    for model in report["models"]:
        for row in model["rows"]:
            theirs, ratio = row["transformers_decode"], row["vs_batched"]
            rows.append(
                [
                    model["model"],
                    str(row["batch"]),
                    f"{row['prefill']:.0f}",
                    f"{row['decode']:.0f}",
                    "not installed" if theirs is None else f"{theirs:.0f}",
                    "" if ratio is None else f"{ratio:.2f}",
                ]
            )
    return f"{machine(report)}\n\n{table(head, rows)}"


def serve(report: Report) -> str:
    """First sound, speed and gaps at each number of callers."""
    rows = []
    for run in report["runs"]:
        summary = run["summary"]
        rows.append(
            [
                str(summary["concurrency"]),
                _ms(summary["ttfp"]["p50"]),
                _ms(summary["ttfp"]["p95"]),
                f"{summary['rtf']['p50']:.2f}",
                f"{summary['audio_per_s']:.1f}",
                f"{summary['continuous']:.0%}",
            ]
        )
    head = ["callers", "first sound, median", "95 %", "RTF", "seconds of sound a second", "without a gap"]
    return table(head, rows)


PAGES = {"token2wav": token2wav, "growth": growth, "thinker": thinker, "serve": serve}


def draw(reports: Mapping[str, Report], folder: Path) -> list[Path]:
    """The plots that the reports allow."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    if "growth" in reports:
        times = [1e3 * t for t in reports["growth"]["chunk_times_s"]]
        figure, axis = plt.subplots(figsize=(6, 2.8), constrained_layout=True)
        axis.plot(times, linewidth=1)
        axis.set(title="cost of chunk number k, ms", xlabel="k", ylim=(0, 1.2 * max(times)))
        drawn.append(_save(figure, folder / "growth.png"))
    if "serve" in reports:
        rows = [run["summary"] for run in reports["serve"]["runs"]]
        callers = [str(row["concurrency"]) for row in rows]
        figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), constrained_layout=True)
        axes[0].plot(callers, [1e3 * row["ttfp"]["p50"] for row in rows], "o-")
        axes[1].plot(callers, [row["audio_per_s"] for row in rows], "o-")
        for axis, title in zip(axes, ("first sound, ms", "seconds of sound a second"), strict=True):
            axis.set(title=title, xlabel="callers at once")
            axis.set_ylim(bottom=0)
        drawn.append(_save(figure, folder / "serve.png"))
    return drawn


def _save(figure: Any, path: Path) -> Path:
    from matplotlib import pyplot as plt

    for axis in figure.axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=90)
    plt.close(figure)
    return path


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def _mb(count: float) -> str:
    return f"{count / 1e6:.2f} MB"


def _pair(report: Report, first: str, second: str) -> str:
    return f"{_mb(report[first])} / {_mb(report[second])}"
