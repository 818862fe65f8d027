"""Progress on stderr, drawn by rich; gone when a stage is done."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from modeledit.runtime import Progress, Silent, Tick


class Bars:
    """One bar a stage: name, bar, done of total, elapsed and remaining time."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Tick]:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            task = bars.add_task(name, total=total)
            yield lambda done: bars.advance(task, done)


def progress(*, wanted: bool) -> Progress:
    """Bars where somebody watches."""
    return Bars() if wanted and sys.stderr.isatty() else Silent()
