"""How differently a classifier treats groups of people; metrics bear fairlearn's names.

A rate that has no image in its denominator is missing: None, and listed. fairlearn gives it 0.

    found = measure(labels, predictions, groups, positive=1)
    found.metrics.equalized_odds_difference, found.missing
    harmed = [d for d in drops(labels, before, after, groups) if d.harmed(limit=0.01)]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from modeledit.errors import DataError
from modeledit.eval.intervals import Interval, percentile, wilson
from modeledit.eval.rates import (
    Floats,
    Ints,
    Names,
    coded,
    counted,
    metrics_of,
    rates_of,
    resampled,
    table,
    worst,
)

TELLING = 20  # images of a group, of which fewer tell nothing
RELIABLE = 150  # images of a group, below which it is reported and not gated
_LEVELS, _PAIRED = 0xFA1, 0xFA2  # keep the draws apart from others of the same seed
_RULES_OUT = {
    "true_positive_rate": ("equal_opportunity_difference", "equalized_odds_difference"),
    "false_positive_rate": ("equalized_odds_difference",),
}


@dataclass(frozen=True)
class GroupMetrics:
    """One group, all in 0..1. recall: share classified correctly, with its bootstrap interval.

    selection_rate: share predicted as the positive label. ci95 is None for a group of one; it has
    no width where all images came out right, or all wrong: `Fairness.certain` names those groups.
    """

    name: str
    n: int
    recall: float
    selection_rate: float
    true_positive_rate: float | None
    false_positive_rate: float | None
    ci95: Interval | None


@dataclass(frozen=True)
class FairnessMetrics:
    """Over all groups. `_difference` is the largest minus the smallest rate, `_group_min` and
    `_group_mean` are of the groups' recall, each group counting the same.

    equalized_odds_difference: the larger of the differences in true and in false positive rate;
    equal_opportunity_difference: that of the true positive rate.
    worst_group: the one of the least recall; of several, the one with the most images, whose recall
    is the surest. ci95: {metric: bootstrap interval}; that of a difference leans upwards, as a
    largest minus a smallest does. excluding: {missing metric: its value over the groups that have
    the rates}.
    """

    accuracy_score: float
    accuracy_score_group_mean: float
    accuracy_score_group_min: float
    accuracy_score_difference: float
    demographic_parity_difference: float
    equal_opportunity_difference: float | None
    equalized_odds_difference: float | None
    worst_group: str
    ci95: Mapping[str, Interval]
    excluding: Mapping[str, float]


@dataclass(frozen=True)
class Fairness:
    """Groups in the order of their names, and what they amount to.

    missing: {rate, metric or "ci95": the groups to blame}.
    """

    groups: tuple[GroupMetrics, ...]
    metrics: FairnessMetrics
    positive: int
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The blocks `groups` and `fairness` of report.json; what is None is absent."""
        fairness = {**_present(self.metrics), "positive": self.positive}
        if self.missing:
            fairness["missing"] = {name: list(who) for name, who in self.missing.items()}
        return {"groups": [_present(group) for group in self.groups], "fairness": fairness}

    def notes(self, instead: tuple[str, ...] = ()) -> tuple[str, ...]:
        """What the missing rates rule out. instead: columns in which every group has them, as
        `columns_with_both` finds them."""
        advice = f"column {' or '.join(instead)}" if instead else "a column without such groups"
        lack = {
            "true_positive_rate": f"no image of the positive label {self.positive}",
            "false_positive_rate": f"only images of the positive label {self.positive}",
        }
        return tuple(
            f"{', '.join(self.missing[rate])}: {why}, which rules out {rate} there and "
            f"{' and '.join(_RULES_OUT[rate])} over these groups; use {advice}"
            for rate, why in lack.items()
            if rate in self.missing
        )

    def few(self) -> tuple[str, ...]:
        """One line where the worst group is a handful of images."""
        (n,) = (group.n for group in self.groups if group.name == self.metrics.worst_group)
        if n >= TELLING:
            return ()
        return (
            f"the worst group, {self.metrics.worst_group}, is a handful of images ({n}), in which "
            "one decides: merge it with another, or leave it out",
        )

    def certain(self) -> tuple[str, ...]:
        """One line on the groups whose interval has no width, with Wilson's, which has one."""
        found = []
        for group in self.groups:
            if group.ci95 is not None and group.recall in (0, 1):
                low, high = wilson(round(group.recall * group.n), group.n) or group.ci95
                share = f"{100 * group.recall:.0f} % of {group.n:,}"
                found.append(f"{group.name} ({share}: {100 * low:.1f} to {100 * high:.1f} %)")
        if not found:
            return ()
        return (
            "all images right or all wrong leave the bootstrap interval of recall no width; "
            f"Wilson's: {', '.join(found)}",
        )


def measure(
    labels: Ints,
    predictions: Ints,
    groups: Names | None,
    positive: int = 1,
    *,
    seed: int = 0,
    draws: int = 2000,
) -> Fairness:
    """labels, predictions, groups: (n,). Labels other than `positive` count as negative.

    Intervals: percentiles of `draws` bootstrap samples, drawn within each group; 0 draws give none.
    Raises DataError for no groups, fewer than two, or a positive label that no image has.
    """
    names, codes = coded(groups, labels, predictions)
    if not (labels == positive).any():
        known = ", ".join(map(str, np.unique(labels)[:10]))
        raise DataError(f"no image has the positive label {positive}: use one of {known}")
    counts = counted(labels, predictions, codes, positive)
    sampled = resampled(counts, np.random.default_rng([seed, _LEVELS]), draws)
    rates, spread = rates_of(counts), rates_of(sampled)
    sizes = counts.sum(1).astype(int).tolist()
    rows = []
    for g, (name, n) in enumerate(zip(names, sizes, strict=True)):
        one = {rate: _known(values[g]) for rate, values in rates.items()}
        interval = percentile(spread["recall"][:, g]) if n > 1 else None
        rows.append(GroupMetrics(name, n, ci95=interval, **one))  # type: ignore[arg-type]
    missing = _missing(rows)
    return Fairness(tuple(rows), _summary(names, counts, sampled, missing), positive, missing)


def _missing(rows: Sequence[GroupMetrics]) -> dict[str, tuple[str, ...]]:
    """{rate or metric: groups without the rate it needs}, and those without an interval."""
    lacking = {rate: {r.name for r in rows if getattr(r, rate) is None} for rate in _RULES_OUT}
    found = dict(lacking)
    for rate, metrics in _RULES_OUT.items():
        for metric in metrics:
            found[metric] = found.get(metric, set()) | lacking[rate]
    found["ci95"] = {r.name for r in rows if r.ci95 is None}
    return {name: tuple(sorted(who)) for name, who in found.items() if who}


def _summary(
    names: list[str], counts: Floats, sampled: Floats, missing: Mapping[str, tuple[str, ...]]
) -> FairnessMetrics:
    values = {name: _known(value) for name, value in metrics_of(counts).items()}
    intervals = {name: percentile(value) for name, value in metrics_of(sampled).items()}
    partial = {name: value for name, value in values.items() if name in missing}
    return FairnessMetrics(
        **{name: None if name in missing else value for name, value in values.items()},  # type: ignore[arg-type]
        worst_group=names[worst(counts)],
        ci95={name: i for name, i in intervals.items() if i and values[name] is not None},
        excluding={name: value for name, value in partial.items() if value is not None},
    )


@dataclass(frozen=True)
class GroupDrop:
    """What an edit took from a group: recall before minus after, positive = worse, on the same
    images, and its paired bootstrap interval (None for a group of one)."""

    name: str
    n: int
    drop: float
    ci95: Interval | None

    def harmed(self, limit: float, least: int = RELIABLE) -> bool:
        """Whether the drop is beyond doubt above the limit; groups under `least` are not judged."""
        return self.n >= least and self.ci95 is not None and self.ci95[0] > limit


def drops(
    labels: Ints,
    before: Ints,
    after: Ints,
    groups: Names | None,
    *,
    seed: int = 0,
    draws: int = 2000,
) -> tuple[GroupDrop, ...]:
    """One for each group, in the order of their names; before, after: (n,) predictions."""
    names, codes = coded(groups, labels, before, after)
    change = (before == labels).astype(int) - (after == labels)  # 1 lost, 0 the same, -1 won
    counts = table(codes, change + 1, len(names), 3)
    won, _, lost = np.moveaxis(
        resampled(counts, np.random.default_rng([seed, _PAIRED]), draws), -1, 0
    )
    n = counts.sum(1)
    spread = (lost - won) / n
    return tuple(
        GroupDrop(
            name,
            int(n[g]),
            float((counts[g, 2] - counts[g, 0]) / n[g]),
            percentile(spread[:, g]) if n[g] > 1 else None,
        )
        for g, name in enumerate(names)
    )


def columns_with_both(labels: Ints, columns: Mapping[str, Names], positive: int) -> tuple[str, ...]:
    """The columns of groups in which every group holds the positive and another label."""
    shown = (labels == positive).astype(int)
    fit = []
    for column, groups in columns.items():
        names, codes = np.unique(groups, return_inverse=True)
        if len(names) > 1 and (table(codes, shown, len(names), 2) > 0).all():
            fit.append(column)
    return tuple(fit)


def _known(value: np.float64 | Floats) -> float | None:
    return float(value) if np.isfinite(value) else None


def _present(value: Any) -> dict[str, Any]:
    """A dataclass as JSON values, without what is None or empty."""
    found = {f.name: getattr(value, f.name) for f in fields(value)}
    return {
        name: dict(part) if isinstance(part, Mapping) else part
        for name, part in found.items()
        if part is not None and part != {}
    }
