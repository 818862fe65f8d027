"""The k largest values by regression: evaluations until a wrong choice has become unlikely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import ndtri

from modeledit.scorers._options import refuse
from modeledit.shapley import Answer, Bools, Estimate, Floats, State, Task
from modeledit.shapley.leverage import LeverageCentred
from modeledit.shapley.sampling import bools
from modeledit.shapley.tmab import check_top, slack

DRAWS = 1000  # of values that could be the true ones
FEWEST = 2  # waves before the errors are believed
DOUBT = 1.25  # root mean square of the largest values' true errors, in standard errors


@dataclass(frozen=True, eq=False)
class LeverageTop(LeverageCentred):
    """Every coalition tells about all players, where a race or a bandit learns of one at a time.

    The choice, the k largest estimates, fails if one of it lies more than the tolerance below the
    threshold, or another player more than the tolerance above it; the threshold is midway between
    the k-th and the next value. After each wave true values are drawn around the estimates, normal
    with their errors, and the run ends once the choice fails in at most a share `delta` of
    the draws. That is approximate: the errors are a jackknife's, a quarter larger since large
    values are pulled towards the prior more than others, and drawn as if independent. Down to half
    an equal share of tolerance fewer runs failed than delta allows (benchmarks/shapley_topk.py).

    delta: also the chance that a half width misses its value.
    relative: the tolerance is in equal shares, |V(all) - V(none)| / n, of each game. With several
    games each must be decided.
    lowest: the k smallest values instead.
    """

    stops: ClassVar[bool] = True
    k: int = 100
    delta: float = 0.2
    tolerance: float = 0.005
    relative: bool = False
    lowest: bool = False

    def start(self, players: int, games: int, seed: int) -> State:
        """See the base."""
        check_top(self.k, self.tolerance, players)
        refuse(self.delta >= 1, f"delta={self.delta} allows every answer: give less than 1")
        state = super().start(players, games, seed)
        state.arrays.update(decided=np.zeros(1, bool), waves=np.zeros(1, np.int64))
        return state

    def absorb(self, state: State, tasks: Sequence[Task], answers: Sequence[Answer]) -> None:
        """See the base; then decide."""
        super().absorb(state, tasks, answers)
        state.arrays["waves"] = state.arrays["waves"] + 1
        if state.arrays["waves"][0] > FEWEST:  # the first holds the ends alone
            state.arrays["decided"] = np.array([self._decided(state)])

    def done(self, state: State) -> bool:
        """See the base."""
        return bool(bools(state, "decided")[0]) or super().done(state)

    def estimate(self, state: State) -> Estimate:
        """See the base."""
        found = super().estimate(state)
        resolved: Bools = found.resolved | self.done(state)
        return Estimate(found.values, found.half_width, found.evaluations, resolved)

    def _decided(self, state: State) -> bool:
        found = super().estimate(state)
        if not np.isfinite(found.half_width).all():
            return False
        errors = DOUBT * found.half_width / ndtri(1 - self.delta / 2)
        near = slack(state, self.tolerance, self.relative)
        normal = state.rng(0, 2).standard_normal((DRAWS, state.players))
        values = -found.values if self.lowest else found.values
        return all(
            wrong(values[:, j] + errors[:, j] * normal, values[:, j], self.k, near[j]) <= self.delta
            for j in range(state.games)
        )


def wrong(draws: Floats, values: Floats, k: int, tolerance: float) -> float:
    """The share of draws, (D, n) true values, in which choosing the k largest of (n,) fails."""
    inside = np.zeros(len(values), bool)
    inside[np.argsort(-values, kind="stable")[:k]] = True
    split = np.partition(draws, (len(values) - k - 1, len(values) - k), axis=1)
    threshold = split[:, len(values) - k - 1 : len(values) - k + 1].mean(1)
    below = threshold - draws[:, inside].min(1)
    above = draws[:, ~inside].max(1) - threshold
    return float((np.maximum(below, above) > tolerance).mean())
