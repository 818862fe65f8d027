"""Top-k by racing: only undecided players are sampled, all of them at the same coalitions.

Ours, from comparable marginal contributions (arXiv 2504.02019) and successive accepts and rejects
(Bubeck, Wang, Viswanathan, ICML 2013).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from modeledit.scorers._options import refuse
from modeledit.shapley import Answer, Bools, Estimate, Floats, Ints, State, Task
from modeledit.shapley.bounds import sequence
from modeledit.shapley.cmcs import Cmcs, around
from modeledit.shapley.sampling import bools, floats, ints
from modeledit.shapley.tmab import check_top, slack, threshold

FEWEST = 16  # rounds before normal theory is believed
BORROWED = 8  # rounds that the other players' variance is worth


@dataclass(frozen=True)
class Racing(Cmcs):
    """The k largest values; a player is sampled until it is known to be one of them, or not.

    All undecided players have been in every round so far. Their marginals at one coalition rise and
    fall together, so each is compared with the others' mean over the same rounds: with c the mean
    of X_j - mean X of the undecided, and w its half width, player j is in once c_j - w_j >= tau -
    tolerance, and out once c_j + w_j <= tau + tolerance, tau midway between the places that are
    still open and the next mean. Who is in or out stays so.

    The half widths are normal theory, valid for all players (delta / n each) and all looks at once,
    but approximate, unlike Bernstein's, whose range term alone asks for spread / tolerance rounds.
    relative: the tolerance is in equal shares, |V(all) - V(none)| / n, of each game.
    lowest: the k smallest values instead. With several games a player leaves once it is decided in
    all of them.
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
        state.arrays.update(
            undecided=np.ones(players, bool),
            inside=np.zeros((players, games), bool),  # of those who left
            left=np.zeros(players, np.int64),  # when, in rounds
            gap=np.zeros((players, games)),  # then, to the mean of those who stayed
            history=np.zeros((0, players, games)),  # marginals by round, of the undecided
        )
        return state

    def order(self, state: State, index: int) -> Ints:
        """See the base."""
        order = super().order(state, index)
        return order[bools(state, "undecided")[order]]

    def sample(self, state: State, task: Task, answer: Answer) -> None:
        """See the base."""
        super().sample(state, task, answer)
        players, marginals = around(task, answer)
        history = floats(state, "history")
        if len(players) < history.shape[1]:
            return  # cut short: the others cannot be compared
        row = np.zeros((state.players, state.games))
        row[players] = marginals
        kept = row[bools(state, "undecided")]
        state.arrays["history"] = np.concatenate([history, kept[None]])

    def absorb(self, state: State, tasks: Sequence[Task], answers: Sequence[Answer]) -> None:
        """See the base; then decide."""
        super().absorb(state, tasks, answers)
        if len(floats(state, "history")) >= FEWEST:
            self._decide(state)

    def done(self, state: State) -> bool:
        """See the base."""
        return not bools(state, "undecided").any()

    def estimate(self, state: State) -> Estimate:
        """See the base; who left is placed by its gap to those who stayed."""
        found = super().estimate(state)
        left, undecided = ints(state, "left"), bools(state, "undecided")
        values = found.values
        for rounds in sorted(set(left[~undecided].tolist()), reverse=True):
            leaving, stayed = left == rounds, undecided | (left > rounds)
            if stayed.any():
                values[leaving] = values[stayed].mean(0) + floats(state, "gap")[leaving]
        return replace(found, values=values, resolved=~undecided)

    def _decide(self, state: State) -> None:
        """Let those leave who are in or out in every game."""
        history, undecided = floats(state, "history"), bools(state, "undecided")
        decided, inside = self._verdicts(state)
        gone = decided.all(1)
        leaving, staying = np.flatnonzero(undecided)[gone], history[:, ~gone]
        if staying.size:
            floats(state, "gap")[leaving] = history[:, gone].mean(0) - staying.mean((0, 1))
        bools(state, "inside")[leaving] = inside[gone]
        ints(state, "left")[leaving] = state.rounds
        undecided[leaving] = False
        state.arrays["history"] = staying

    def _verdicts(self, state: State) -> tuple[Bools, Bools]:
        """(undecided, m) each: whether it is known, and whether it is in if so."""
        history = floats(state, "history")
        apart = history - history.mean(1, keepdims=True)
        mean = -apart.mean(0) if self.lowest else apart.mean(0)
        rounds = np.array(len(apart), np.int64)
        width = sequence(pooled(apart), rounds, self.delta / state.players)
        decided, inside = np.ones(mean.shape, bool), np.zeros(mean.shape, bool)
        near = slack(state, self.tolerance, self.relative)
        open_places = self.k - bools(state, "inside").sum(0)
        for j, places in enumerate(open_places.tolist()):
            inside[np.argsort(-mean[:, j], kind="stable")[: max(places, 0)], j] = True
            if 0 < places < len(mean):
                away = np.abs(mean[:, j] - threshold(mean[:, j, None], places, published=False))
                decided[:, j] = away >= width[:, j] - near[j]
        return decided, inside


def pooled(samples: Floats) -> Floats:
    """(n, m) variances of (t, n, m) samples, each drawn towards their mean over players as if that
    were known from a few more rounds: a player whose marginals were 0 so far may still vary."""
    t = len(samples)
    own = samples.var(0, ddof=1)
    found: Floats = ((t - 1) * own + BORROWED * own.mean(0)) / (t - 1 + BORROWED)
    return found
