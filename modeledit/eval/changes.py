"""What an edit changed for groups, on the same images before and after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modeledit.eval.intervals import Interval, percentile
from modeledit.eval.rates import (
    KINDS,
    Floats,
    Ints,
    Names,
    coded,
    kinds_of,
    metrics_of,
    resampled,
    table,
)

_METRICS = 0xFA3  # keeps the draws apart from others of the same seed


@dataclass(frozen=True)
class MetricChange:
    """A fairness metric after minus before, and its paired bootstrap interval."""

    change: float
    ci95: Interval | None


def metric_changes(
    labels: Ints,
    before: Ints,
    after: Ints,
    groups: Names | None,
    positive: int,
    *,
    seed: int = 0,
    draws: int = 2000,
) -> dict[str, MetricChange]:
    """{metric: its change}, over the groups that have the rates; before, after: (n,) predictions.

    An image's two answers are drawn together, within its group.
    """
    names, codes = coded(groups, labels, before, after)
    kinds = [kinds_of(labels, predicted, positive) for predicted in (before, after)]
    joint = table(codes, kinds[0] * KINDS + kinds[1], len(names), KINDS**2)
    sampled = resampled(joint, np.random.default_rng([seed, _METRICS]), draws)
    found, spread = _difference(joint), _difference(sampled)
    return {
        name: MetricChange(float(value), percentile(spread[name]))
        for name, value in found.items()
        if np.isfinite(value)
    }


def _difference(joint: Floats) -> dict[str, Floats]:
    """Metrics of the second answers minus those of the first; (..., groups, 25) counts."""
    both = joint.reshape(*joint.shape[:-1], KINDS, KINDS)
    first, second = metrics_of(both.sum(-1)), metrics_of(both.sum(-2))
    return {name: second[name] - first[name] for name in first}
