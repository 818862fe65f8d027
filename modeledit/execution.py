"""From scores to a judged network: what every job that edits has in common."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from modeledit import bench, search
from modeledit.cost import Clock
from modeledit.editors import Editor
from modeledit.judging import Baseline, describe_edit, judged
from modeledit.objectives import Objective
from modeledit.remarks import remarks
from modeledit.report import Trial
from modeledit.result import Result
from modeledit.selection import Strength
from modeledit.surgery import rename, settled
from modeledit.types import EditPlan, Scores

Auto = Literal["auto"]


@dataclass(frozen=True, eq=False)
class Execution:
    """How scores are turned into an edit. task: the job's name in the report."""

    task: str
    baseline: Baseline
    objective: Objective
    editor: Editor
    strength: Strength | Auto
    clock: Clock

    def run(self, scores: Scores) -> Result:
        """Plan, search unless the strength is given, measure."""
        return self.judged(scores, *self.planned(scores))

    def planned(self, scores: Scores) -> tuple[EditPlan, tuple[Trial, ...]]:
        """The plan at the given strength, or at the one that the search chooses; its trials."""
        module, train = self.baseline.loaded.module, self.baseline.data.train
        with self.clock.stage("edit") as metered:
            planner = self.editor.prepare(scores, module, train, metered)
        if self.strength == "auto":
            first = None if self.editor.trains else bench.FIRST
            with self.clock.stage("search") as metered:
                return search.find(planner, scores, self.baseline, self.objective, metered, first)
        with self.clock.stage("edit"):
            return planner(self.strength), ()

    def judged(self, scores: Scores, plan: EditPlan, trials: tuple[Trial, ...]) -> Result:
        """The network that the plan makes, measured on the test split."""
        loaded = self.baseline.loaded
        base = loaded.base_state()
        plan = settled(rename(plan, loaded.module, base), base)
        described = describe_edit(plan, scores, self.editor, loaded.module)
        report, network = judged(
            self.task, self.baseline, self.objective, plan, trials, described, self.clock
        )
        report = replace(report, notes=report.notes + remarks(plan))
        return Result(report, plan, scores, network, loaded)
