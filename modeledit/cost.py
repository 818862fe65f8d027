"""What a run takes: seconds and forward-equivalent images by stage, and the memory's peak."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from modeledit.report import Cost, StageCost
from modeledit.runtime import Meter, Runtime


class Clock:
    """Times the stages of one run; a stage entered twice adds up."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._stages = dict.fromkeys(("score", "search", "edit", "evaluate"), StageCost(0.0, 0))
        self._meters: list[tuple[str, Meter]] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[Runtime]:
        """Runs a stage on a runtime whose meter starts at 0.

        What the runtime meters after the stage counts too: an editor may work while a search tries
        its plans. Those seconds are the search's.
        """
        metered = self.runtime.metered()
        self._meters.append((name, metered.meter))
        start = time.perf_counter()
        yield metered
        spent = self._stages[name]
        self._stages[name] = replace(spent, seconds=spent.seconds + time.perf_counter() - start)

    def made_before(self, name: str, passes: int) -> None:
        """Count what a stage took in an earlier run whose result this one uses: no seconds."""
        self._stages[name] = StageCost(0.0, passes)

    def cost(self) -> Cost:
        """All stages so far."""
        stages = dict(self._stages)
        for name, meter in self._meters:
            spent = stages[name]
            stages[name] = replace(spent, passes=spent.passes + round(meter.images))
        return Cost(**stages, peak_memory_mb=peak_memory_mb())


def peak_memory_mb() -> float:
    """Largest resident size of this process so far, in MB (10^6 bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
