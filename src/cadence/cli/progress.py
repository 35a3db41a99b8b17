"""Shows how far loading has come: bars on a terminal, one line per finished part elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["LoadingDisplay"]


class LoadingDisplay:
    """A context manager whose `report` is the progress callback of loading.

    Args:
        console: where to draw; bars only when it is a terminal.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started_s = time.monotonic()
        self._tasks: dict[str, TaskID] = {}
        self._done: set[str] = set()
        columns = (TextColumn("  {task.description:<28}"), BarColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)

    def report(self, part: str, fraction: float) -> None:
        """`part` is loaded up to `fraction` (0..1); 1.0 the first time prints its line."""
        if part not in self._tasks:
            self._tasks[part] = self._bars.add_task(part, total=1.0)
        self._bars.update(self._tasks[part], completed=min(fraction, 1.0))
        if fraction >= 1.0 and part not in self._done:
            self._done.add(part)
            self._console.print(
                f"  {part} ready ({time.monotonic() - self._started_s:.1f} s)", highlight=False
            )

    def __enter__(self) -> LoadingDisplay:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
