"""Progress on stderr, drawn by rich; gone when a stage is done."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from modeledit.runtime import Progress, Silent, Tick


class Bars:
    """One bar a stage: name, bar, done of total, elapsed and remaining time. Below it one line that
    says where things stand; a total of 0 is not known."""

    def __init__(self) -> None:
        self._say: Callable[[str], None] | None = None

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Tick]:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.text import Text

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        # Seconds that the remaining time is judged from: a block of sampling may take minutes.
        bars = Progress(*columns, speed_estimate_period=600.0)
        line = Text(no_wrap=True, overflow="ellipsis")
        task = bars.add_task(name, total=total or None)
        outer = self._say

        def say(text: str) -> None:
            line.plain = text

        with Live(Group(bars, line), console=Console(stderr=True), transient=True):
            self._say = say
            try:
                yield lambda done: bars.advance(task, done)
            finally:
                self._say = outer

    def status(self, text: str) -> None:
        """The line below the bar."""
        if self._say is not None:
            self._say(text)


def progress(*, wanted: bool) -> Progress:
    """Bars where somebody watches."""
    return Bars() if wanted and sys.stderr.isatty() else Silent()
