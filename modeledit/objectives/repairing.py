"""Repairing fairness: groups get closer, and none of them pays for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from modeledit.errors import DataError, ModelEditError
from modeledit.eval.fairness import measure
from modeledit.eval.gates import improved
from modeledit.eval.rates import coded, counted, metrics_of, worst
from modeledit.objectives import NO_EFFECT, Objective, Seen, beside, group_drops
from modeledit.report import Changes, GateResult, GroupTrial, Measurement, Trial
from modeledit.runtime import Runtime
from modeledit.selection import Strength
from modeledit.targets import GroupRecall, Over, Target

if TYPE_CHECKING:
    from modeledit.data import Data, Split
    from modeledit.judging import Baseline

Metric = Literal["worst-group", "equalized-odds", "demographic-parity"]
NARROWED = "gap narrowed"
IN_NOISE = "gap narrowed, within noise"
KEYS: dict[str, str] = {
    "worst-group": "accuracy_score_group_min",
    "equalized-odds": "equalized_odds_difference",
    "demographic-parity": "demographic_parity_difference",
}
GATES: dict[str, str] = {
    "worst-group": "error of the worst group",
    "equalized-odds": "equalized odds difference",
    "demographic-parity": "demographic parity difference",
}


@dataclass(frozen=True)
class Repairing(Objective):
    """Among the edits that harm no group and keep accuracy the best metric, then the smallest loss
    of accuracy, then the fewest changes.

    metric: the recall of the worst group, or the equalized odds or demographic parity difference.
    over: what scores are for, the worst group's recall or the mean of all. For the two differences
    each group's images of the positive label and the others are groups of their own in scoring,
    since a group's recall can be perfect on average and lopsided inside.
    """

    metric: Metric = "worst-group"
    over: Over = "worst"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metric not in get_args(Metric):
            allowed = ", ".join(get_args(Metric))
            raise ModelEditError(f"metric {self.metric!r} is not known: use one of {allowed}")
        if self.aspects.positive is None:
            raise ModelEditError("fairness is compared for a positive label: name one")

    @property
    def target(self) -> Target:
        return GroupRecall(self.over)

    @property
    def budget(self) -> float:
        return 1.0 if self.limits.max_drop is None else self.limits.max_drop

    @property
    def positive(self) -> int:
        """The label whose rates are compared."""
        return self.aspects.positive or 0

    def check(self, data: Data) -> None:
        """Every split has groups, and these have the rates that the metric needs."""
        for split in (data.train, data.validation, data.test):
            found = measure(split.labels, split.labels, split.groups, self.positive, draws=0)
            lacking = found.missing.get(KEYS[self.metric])
            if lacking:
                from modeledit.eval.aspects import suggested

                instead = suggested(data, self.positive)
                advice = f"--group-column {instead[0]}" if instead else "another --group-column"
                raise DataError(
                    f"{self.metric} compares true and false positive rates, and groups of the "
                    f"{split.name} split have images of label {self.positive} only, or none "
                    f"({', '.join(lacking)}): use {advice}, or --metric worst-group"
                )

    def scored(
        self, baseline: Baseline, runtime: Runtime, along: int = 1
    ) -> tuple[Split, Split | None]:
        """The training split; its groups by label, where a metric looks inside them."""
        del runtime, along
        train = baseline.data.train
        if self.metric == "worst-group" or train.groups is None:
            return train, None
        side = np.where(train.labels == self.positive, "positive", "other")
        cells = [f"{group}, {one}" for group, one in zip(train.groups, side, strict=True)]
        return train.regrouped(np.array(cells)), None

    def value(self, seen: Seen) -> tuple[float, str]:
        """The metric as the report names it, and the group of least recall."""
        answers = seen.answers
        names, codes = coded(seen.groups, answers.labels, answers.predicted)
        counts = counted(answers.labels, answers.predicted, codes, self.positive)
        return float(metrics_of(counts)[KEYS[self.metric]]), names[worst(counts)]

    def trial(
        self, strength: Strength, changed: int, before: Seen, after: Seen, errors_kept: float
    ) -> Trial:
        value, lowest = self.value(after)
        drop, error = self.lost(before.answers, after.answers)
        harmed = max(group_drops(before, after, self.target), key=lambda row: row[1])
        return GroupTrial(
            strength=strength,
            changed_weights=changed,
            images=len(after.answers),
            feasible=self.keeps(before, after, errors_kept),
            value=value,
            worst_group=lowest,
            accuracy=float(after.answers.correct.mean()),
            accuracy_drop=drop,
            accuracy_drop_se=error,
            most_harmed=harmed[0],
            group_drop=harmed[1],
        )

    def preference(self, trial: Trial) -> tuple[float, ...]:
        if not isinstance(trial, GroupTrial):
            raise TypeError(f"a trial of another objective: {trial}")
        return self._wrong(trial.value), trial.accuracy_drop, trial.changed_weights

    def gates(
        self, before: Measurement, after: Measurement, changes: Changes | None
    ) -> tuple[GateResult, ...]:
        key = KEYS[self.metric]
        old, new = (self._wrong((m.fairness or {})[key]) for m in (before, after))
        return (improved(GATES[self.metric], old, new), *super().gates(before, after, changes))

    def verdict(
        self, before: Measurement, after: Measurement, changes: Changes | None
    ) -> tuple[str, str]:
        better, *others = self.gates(before, after, changes)
        numbers = f"{better.name} {100 * better.limit:.1f} % before, {100 * better.value:.1f} after"
        failed = beside(others)
        if failed is not None:
            return failed
        if not better.passed:
            return NO_EFFECT, numbers
        found = None if changes is None else changes.metrics.get(KEYS[self.metric])
        if found is None or found.ci95 is None:
            return NARROWED, numbers
        low, high = found.ci95
        if self.metric == "worst-group":  # an error falls as a recall rises; 0 added: no minus zero
            low, high = 0.0 - high, 0.0 - low
        why = f"{numbers}; 95 % interval of the change {100 * low:+.1f} to {100 * high:+.1f} points"
        return (IN_NOISE if low <= 0 <= high else NARROWED), why

    def _wrong(self, value: float) -> float:
        """The metric as something to make small."""
        return 1 - value if self.metric == "worst-group" else value
