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
        columns = (TextColumn("  {task.description}"), BarColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)

    def report(self, text: str, fraction: float) -> None:
        """`text` is what happens now, as "stage: sentence" or a sentence; `fraction` is 0..1.

        Sentences of one stage share a bar; a stage's line is printed when it is complete.
        """
        stage = text.partition(": ")[0]
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(text, total=1.0)
        self._bars.update(self._tasks[stage], completed=min(fraction, 1.0), description=text)
        if fraction >= 1.0 and stage not in self._done:
            self._done.add(stage)
            took_s = time.monotonic() - self._started_s
            self._console.print(f"  {stage}: ready after {took_s:.1f} s", highlight=False, markup=False)

    def __enter__(self) -> LoadingDisplay:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()
