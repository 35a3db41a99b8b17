"""What the doctor finds: checks with a verdict, compared arrays, and the table of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console
from rich.table import Table

__all__ = ["Check", "Report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the report. The figures are None where nothing was compared.

    `max_error` is absolute; `relative` is max_error / standard deviation of the reference; `snr_db` is
    the reference's energy over the error's.
    """

    part: str
    name: str
    ok: bool
    note: str = ""
    max_error: float | None = None
    relative: float | None = None
    snr_db: float | None = None
    took_s: float | None = None


@dataclass(slots=True)
class Report:
    """Collects checks. `rtol` bounds `relative`."""

    rtol: float = 1e-3
    on_check: Callable[[Check], None] = lambda _check: None
    checks: list[Check] = field(default_factory=list)

    @property
    def num_failed(self) -> int:
        """Checks that missed."""
        return sum(not check.ok for check in self.checks)

    def add(self, check: Check) -> bool:
        """Record a check; returns its verdict."""
        self.checks.append(check)
        self.on_check(check)
        return check.ok

    def miss(self, part: str, name: str, note: str) -> None:
        """Record something that could not be done or is wrong."""
        self.add(Check(part=part, name=name, ok=False, note=note))

    def equal(self, part: str, name: str, want: ArrayLike, got: ArrayLike) -> bool:
        """Whole numbers or strings: shapes and every element must agree."""
        a, b = np.asarray(want), np.asarray(got)
        if a.shape != b.shape:
            return self.add(
                Check(part=part, name=name, ok=False, note=f"shape {b.shape}, expected {a.shape}")
            )
        num_wrong = int((a != b).sum())
        note = f"{num_wrong} of {a.size} differ" if num_wrong else f"{a.size} equal"
        return self.add(Check(part=part, name=name, ok=not num_wrong, note=note))

    def close(
        self,
        part: str,
        name: str,
        want: ArrayLike,
        got: ArrayLike,
        *,
        rtol: float | None = None,
        enough_db: float = float("inf"),
    ) -> bool:
        """Real numbers: finite, of one shape, and within `rtol` standard deviations everywhere.

        `enough_db`: a signal-to-noise ratio that is good enough whatever the largest error.
        """
        a, b = np.asarray(want, np.float64), np.asarray(got, np.float64)
        if a.shape != b.shape:
            return self.add(
                Check(part=part, name=name, ok=False, note=f"shape {b.shape}, expected {a.shape}")
            )
        if not np.isfinite(b).all():
            return self.add(Check(part=part, name=name, ok=False, note="not finite"))
        error = np.abs(a - b)
        largest = float(error.max(initial=0.0))
        relative = largest / max(float(a.std()), 1e-12) if a.size else 0.0
        energy = max(float((error**2).sum()), 1e-30)
        snr_db = 10 * np.log10(max(float((a**2).sum()), 1e-30) / energy)
        return self.add(
            Check(
                part=part,
                name=name,
                ok=bool(relative <= (self.rtol if rtol is None else rtol) or snr_db >= enough_db),
                max_error=largest,
                relative=relative,
                snr_db=float(snr_db),
            )
        )

    def timed(
        self, part: str, name: str, run: Callable[[], str], errors: tuple[type[Exception], ...]
    ) -> bool:
        """Run one check: its return value is the note; one of `errors` is a miss with its message."""
        start_s = time.perf_counter()
        try:
            note, ok = run(), True
        except errors as error:
            note, ok = str(error) or type(error).__name__, False
        took_s = time.perf_counter() - start_s
        return self.add(Check(part=part, name=name, ok=ok, note=note, took_s=took_s))

    def print(self, console: Console) -> None:
        """The whole table, then one line with the verdict."""
        console.print(_table(self.checks))
        worst = max((c.relative for c in self.checks if c.relative is not None), default=None)
        figures = "" if worst is None else f", largest relative error {worst:.1e} (tolerance {self.rtol:g})"
        verdict = "[green]all good" if not self.num_failed else f"[red]{self.num_failed} wrong"
        console.print(f"{len(self.checks)} checks, {verdict}[/]{figures}")


def _table(checks: Iterable[Check]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("Part", no_wrap=True)
    table.add_column("Check", no_wrap=True)
    for heading in ("Max error", "Relative", "SNR dB", "Seconds"):
        table.add_column(heading, justify="right")
    table.add_column("Verdict")
    table.add_column("Note", overflow="fold")
    for c in checks:
        table.add_row(
            c.part,
            c.name,
            "" if c.max_error is None else f"{c.max_error:.1e}",
            "" if c.relative is None else f"{c.relative:.1e}",
            "" if c.snr_db is None else f"{c.snr_db:.0f}",
            "" if c.took_s is None else f"{c.took_s:.1f}",
            "[green]ok[/]" if c.ok else "[red]MISS[/]",
            c.note,
        )
    return table
