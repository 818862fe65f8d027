"""Regression on coalitions drawn by leverage score, centred by size, with a prior."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from modeledit.errors import ModelEditError
from modeledit.scorers._options import share, whole
from modeledit.shapley import Answer, Bools, Estimate, Estimator, Floats, Ints, State, Task
from modeledit.shapley.cmcs import STEP
from modeledit.shapley.regression import Sample, enumerated, regress
from modeledit.shapley.sampling import bools, ends, floats, ints

PAIRS = 8  # of coalitions in a round
LISTED = 12  # most players whose coalitions are all listed and drawn without replacement


@dataclass(frozen=True, eq=False)
class LeverageCentred(Estimator):
    """Coalitions in pairs with their complements, their sizes spread evenly over 1..n-1, then
    uniform; the values are those of `modeledit.shapley.regression`.

    Even sizes are leverage-score sampling (Leverage SHAP, Musco & Witter 2024, arXiv 2410.01917),
    here without replacement among single players and, with up to 12 players, altogether: these end
    with exact values once every coalition was evaluated. Beyond the paper: the mean of each size
    is taken out, slopes vary with the size, and a ridge, its weight chosen by leaving out pairs,
    pulls towards the prior, so that fewer evaluations than players do. The values add up to
    V(all) - V(none) exactly. They are biased towards the prior while evaluations are few.

    wave: rounds of 16 evaluations that are planned together, at least; waves grow with the run.
    delta: of the half widths, per player, approximate (see `regress`).
    prior: (n, m) a guess of the values, as from `gate_ig`, or (n, m, p) several, of which, and of
    their mean, the pairs left out choose; None is equal shares.
    """

    wave: int = 8
    delta: float = 0.05
    prior: Floats | None = field(default=None, repr=False)

    def start(self, players: int, games: int, seed: int) -> State:
        """See the base."""
        whole("wave", self.wave, 1)
        share("delta", self.delta)
        if self.prior is not None and (
            self.prior.shape[:2] != (players, games) or self.prior.ndim > 3 or not self.prior.size
        ):
            raise ModelEditError(
                f"a prior of shape {self.prior.shape} does not fit {players:,} units and {games} "
                f"games: give ({players}, {games}), or several along a third axis"
            )
        if self.prior is not None and not np.isfinite(self.prior).all():
            raise ModelEditError("the prior holds NaN or infinity: give finite values, or none")
        state = super().start(players, games, seed)
        state.arrays.update(
            ends=np.zeros((2, games)),
            rows=np.empty((0, -(-players // 64)), np.int64),  # 64 players to a number
            values=np.empty((0, games)),
            known=np.empty(0, bool),
        )
        return state

    def plan(self, state: State) -> list[Task]:
        """See the base."""
        if state.rounds == 0:
            both = np.stack([np.ones(state.players, bool), np.zeros(state.players, bool)])
            return [Task(0, both)]
        # Growing waves: however long the run, its state is fitted a few dozen times.
        last = state.rounds + max(self.wave, state.rounds // 2)
        if state.players <= LISTED:
            last = min(last, 1 + -(-_all_pairs(state.players) // PAIRS))
        return [self.round(state, index) for index in range(state.rounds, last)]

    def round(self, state: State, index: int) -> Task:
        """Round `index` >= 1."""
        first = (index - 1) * PAIRS
        if state.players <= LISTED:
            chosen = _listed(state)[first : first + PAIRS]
        else:
            chosen = np.stack(list(_drawn(state, index, first)))
        rows = np.empty((2 * len(chosen), state.players), bool)
        rows[0::2], rows[1::2] = chosen, ~chosen
        return Task(index, rows)

    def learn(self, state: State, task: Task, answer: Answer) -> None:
        """See the base."""
        values = answer.values
        if task.index == 0:
            ends(state)[: len(values)] = values
            return
        rows, known = np.stack(list(task.coalitions))[: len(values)], np.ones(len(values), bool)
        if len(values) % 2:  # the budget ended between a coalition and its complement
            rows, known = np.concatenate([rows, ~rows[-1:]]), np.append(known, False)
            values = np.concatenate([values, np.zeros((1, state.games))])
        arrays = state.arrays
        arrays["rows"] = np.concatenate([ints(state, "rows"), _packed(rows)])
        arrays["values"] = np.concatenate([floats(state, "values"), values])
        arrays["known"] = np.concatenate([bools(state, "known"), known])

    def done(self, state: State) -> bool:
        """With few players, once every coalition was evaluated."""
        small = state.players <= LISTED
        return small and state.rounds > 0 and _complete(state)

    def estimate(self, state: State) -> Estimate:
        """See the base."""
        shape = (state.players, state.games)
        values, error = np.empty(shape), np.zeros(shape)
        complete = state.players <= LISTED and _complete(state)
        for game in range(state.games):
            sample = _sample(state, game)
            if state.players == 1 or complete:
                values[:, game] = enumerated(sample)
            else:
                prior = self.prior
                if prior is not None:
                    prior = prior[:, game].reshape(state.players, -1)
                values[:, game], error[:, game] = regress(sample, prior)
        width = float(ndtri(1 - self.delta / 2)) * error
        return Estimate(values, width, state.evaluations, np.full(state.players, complete))


def _drawn(state: State, index: int, first: int) -> Iterator[Bools]:
    """One coalition of each of a round's pairs, by number."""
    n, rng = state.players, state.rng(index)
    shift = state.rng(0).random()
    sizes = 1 + ((shift + STEP * np.arange(first + PAIRS)) % 1.0 * (n - 1)).astype(np.int64)
    single = (sizes == 1) | (sizes == n - 1)
    turns, order = np.cumsum(single) - 1, state.rng(0, 1).permutation(n)
    for at in range(first, first + PAIRS):
        chosen = np.zeros(n, bool)
        if single[at] and turns[at] < n:
            chosen[order[turns[at]]] = True
        else:  # no single player is left to draw
            size = int(rng.integers(2, n - 1)) if single[at] else int(sizes[at])
            chosen[rng.permutation(n)[:size]] = True
        yield chosen


def _all_pairs(players: int) -> int:
    return int(2 ** (players - 1)) - 1


def _complete(state: State) -> bool:
    return int(bools(state, "known").sum()) >= 2 * _all_pairs(state.players)


def _listed(state: State) -> Bools:
    """(pairs, n): those with the last player in them, in an order that spreads the sizes evenly."""
    n = state.players
    codes = np.arange(_all_pairs(n))
    rows = np.concatenate([(codes[:, None] >> np.arange(n - 1)) & 1, np.ones((len(codes), 1))], 1)
    sizes = rows.sum(1).astype(np.int64)
    turn = state.rng(0).permutation(len(codes))
    place = np.empty(len(codes))
    for size in range(1, n):
        mine = np.flatnonzero(sizes == size)
        place[mine[turn[mine].argsort()]] = (np.arange(len(mine)) + 0.5) / len(mine)
    return rows[np.argsort(place, kind="stable")].astype(bool)


def _packed(rows: Bools) -> Ints:
    """(E, n) bool -> (E, ceil(n / 64)) int64"""
    wide: Bools = np.zeros((len(rows), -(-rows.shape[1] // 64) * 64), bool)
    wide[:, : rows.shape[1]] = rows
    return np.packbits(wide, axis=1).view(np.int64)


def _sample(state: State, game: int) -> Sample:
    packed: npt.NDArray[np.uint8] = np.ascontiguousarray(ints(state, "rows")).view(np.uint8)
    rows = np.unpackbits(packed, axis=1, count=state.players).astype(bool)
    everybody, none = ends(state)[:, game].tolist()
    return Sample(rows, floats(state, "values")[:, game], bools(state, "known"), none, everybody)
