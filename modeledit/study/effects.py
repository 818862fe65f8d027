"""How far two samples lie apart, and whether that can be chance, for many pairs at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """delta: Cliff's, P(a > b) - P(a < b), in [-1, 1]; p: of Mann-Whitney's two-sided test."""

    delta: float
    p: float


def effect(a: Floats, b: Floats) -> Effect:
    """Of `a` against `b`; both hold at least one finite number. Cliff 1993; Mann & Whitney 1947."""
    found = stats.mannwhitneyu(a, b, alternative="two-sided", method="asymptotic")
    delta = 2 * float(found.statistic) / (len(a) * len(b)) - 1
    p = float(found.pvalue)
    return Effect(delta, p if np.isfinite(p) else 1.0)  # all values equal: no evidence


def holm(p: Sequence[float]) -> list[float]:
    """Each p corrected for having looked at all of them. Holm 1979; never above 1."""
    order = np.argsort(p, kind="stable")
    corrected, largest = [0.0] * len(p), 0.0
    for rank, place in enumerate(order.tolist()):
        largest = max(largest, min(1.0, (len(p) - rank) * p[place]))
        corrected[place] = largest
    return corrected
