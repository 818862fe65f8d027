"""TMAB-Shapley: truncated permutations as a multi-armed bandit (Ghorbani & Zou, NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from modeledit.scorers._options import positive, refuse, whole
from modeledit.shapley import Answer, Bools, Estimate, Floats, State, Task
from modeledit.shapley.bounds import Interval, half_width
from modeledit.shapley.permutation import Permutation
from modeledit.shapley.sampling import WIDEST, bools, ends, floats, ints, variance


@dataclass(frozen=True)
class Tmab(Permutation):
    """The k largest values; a player is sampled while it may lie on either side of the threshold.

    Player i is unresolved while mean_i - CB_i + tolerance < tau < mean_i + CB_i - tolerance, with
    CB_i the half width of its interval (empirical Bernstein) and tau midway between the k-th and
    the next mean. Resolved players leave without being evaluated on either side. With several games
    a player is resolved once it is in all of them.

    union: CB_i holds for all players together, ln(4n / delta) for ln(4 / delta). Looking after
    every wave is covered by neither.
    relative: the tolerance is in equal shares, |V(all) - V(none)| / n, of each game.
    lowest: the k smallest values instead.
    published: the authors' version: ln(2 / delta), range 1 unless `spread` is given, and tau = the
    k-th largest mean (that player stays until its own CB is below the tolerance). Their settings
    besides are k=100, delta=0.2, truncation=0.2, patience=6.
    """

    stops: ClassVar[bool] = True
    interval: Interval = "bernstein"
    delta: float = 0.2
    k: int = 100
    tolerance: float = 0.005
    relative: bool = False
    union: bool = False
    lowest: bool = False
    published: bool = False

    def start(self, players: int, games: int, seed: int) -> State:
        """See the base."""
        check_top(self.k, self.tolerance, players)
        refuse(
            self.published and (self.union or self.interval != "bernstein"),
            "published=True is the authors' bound, Bernstein's without a union: leave out one",
        )
        state = super().start(players, games, seed)
        state.arrays["unresolved"] = np.ones(players, bool)
        return state

    def wanted(self, state: State) -> Bools:
        """See the base."""
        return bools(state, "unresolved")

    def absorb(self, state: State, tasks: Sequence[Task], answers: Sequence[Answer]) -> None:
        """See the base; then decide who is resolved."""
        super().absorb(state, tasks, answers)
        if (ints(state, "count") < 2).any():  # no bound yet
            return
        mean = -floats(state, "mean") if self.lowest else floats(state, "mean")
        width = self.width(state) - slack(state, self.tolerance, self.relative)
        away = np.abs(mean - threshold(mean, self.k, self.published))
        bools(state, "unresolved")[:] = (away < width).any(1)

    def width(self, state: State) -> Floats:
        """See the base."""
        # Two-sided, Bernstein's logarithm is ln(4 / delta): ln(2 / delta) is that of 2 delta.
        delta = 2 * self.delta if self.published else self.delta
        delta = delta / state.players if self.union else delta
        widest = 1.0 if self.published else WIDEST
        spread = widest if self.spread is None else self.spread
        return half_width(
            self.interval, variance(state), ints(state, "count")[:, None], delta, spread
        )

    def done(self, state: State) -> bool:
        """See the base."""
        return not bools(state, "unresolved").any()

    def estimate(self, state: State) -> Estimate:
        """See the base."""
        return replace(super().estimate(state), resolved=~bools(state, "unresolved"))


def threshold(mean: Floats, k: int, published: bool) -> Floats:
    """(m,) between the k largest of the (n, m) means and the others, or the k-th itself."""
    largest: Floats = -np.sort(-mean, axis=0)
    tau: Floats = largest[k - 1] if published else (largest[k - 1] + largest[k]) / 2
    return tau


def slack(state: State, tolerance: float, relative: bool) -> Floats:
    """(m,) the tolerance of each game, if `relative` times an equal share of its V(all) - V(none).

    Raises ModelEditError where that is 0."""
    if not relative:
        return np.full(state.games, tolerance)
    shares: Floats = np.abs(ends(state)[0] - ends(state)[1]) / state.players
    refuse(
        bool((shares == 0).any()),
        f"relative=True has nothing to measure tolerance={tolerance} in: the network is worth as "
        "much with all units pinned as with none: give relative=False",
    )
    return tolerance * shares


def check_top(k: int, tolerance: float, players: int) -> None:
    """Raise ModelEditError unless there is a threshold to find."""
    whole("k", k, 1)
    refuse(k >= players, f"k={k} of {players:,} units is no choice: give 1 to {players - 1:,}")
    positive("tolerance", tolerance)  # equal values would never be told apart
