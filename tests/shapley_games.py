"""Small games with known Shapley values."""

import itertools
import math
from dataclasses import dataclass, field

import numpy as np

from modeledit.shapley.permutation import Permutation
from modeledit.shapley.running import Budget, run


@dataclass
class TableGame:
    """Values looked up by the set of the living; counts what was asked."""

    table: np.ndarray  # (2**n, m)
    names: tuple[str, ...] = ("v",)
    asked: list[tuple[bytes, bool]] = field(default_factory=list)

    @property
    def players(self):
        return int(math.log2(len(self.table)))

    def value(self, alive, *, keep=True):
        self.asked.append((alive.numpy().tobytes(), keep))
        return self.table[int((alive.numpy() * 2 ** np.arange(self.players)).sum())]


def game(function, players, names=("v",)):
    """From a function of the sorted tuple of living players."""
    rows = [
        np.atleast_1d(function(tuple(i for i in range(players) if code >> i & 1)))
        for code in range(2**players)
    ]
    return TableGame(np.array(rows, dtype=np.float64), names)


def glove(players=5):
    """Pairs of a left glove (players 0 and 1) and a right one (the rest)."""
    return game(lambda s: min(sum(i < 2 for i in s), sum(i >= 2 for i in s)), players)


def airport(costs=(1.0, 1.0, 2.0, 5.0, 5.0, 9.0)):
    """The longest runway that is needed: phi by hand, each segment shared by those who use it."""
    return game(lambda s: max((costs[i] for i in s), default=0.0), len(costs))


def random_game(players=6, games=1, seed=0):
    table = np.random.default_rng(seed).normal(size=(2**players, games))
    return TableGame(table, tuple(f"v{j}" for j in range(games)))


def planted(players, strong, gap=0.1, noise=0.02, seed=0):
    """The first `strong` players are worth `gap` more; interactions of pairs make noise."""
    rng = np.random.default_rng(seed)
    pairs = rng.normal(scale=noise, size=(players, players))
    worth = np.where(np.arange(players) < strong, gap, 0.0)
    return PairGame(worth, pairs)


@dataclass
class PairGame:
    """V(S) = the sum of worth in S and of pairs within S; phi is exact."""

    worth: np.ndarray
    pairs: np.ndarray
    names: tuple[str, ...] = ("v",)
    asked: int = 0

    @property
    def players(self):
        return len(self.worth)

    @property
    def exact(self):
        both = self.pairs - np.diag(np.diag(self.pairs))
        return self.worth + np.diag(self.pairs) + (both.sum(0) + both.sum(1)) / 2

    def value(self, alive, *, keep=True):  # noqa: ARG002  (the protocol's)
        self.asked += 1
        s = alive.numpy().astype(float)
        return np.array([self.worth @ s + s @ self.pairs @ s])


def exact(game):
    """(n, m) by the definition: the mean over all permutations."""
    n = game.players
    total = np.zeros((n, game.table.shape[1]))
    for order in itertools.permutations(range(n)):
        code = 0
        for player in order:
            total[player] += game.table[code | 1 << player] - game.table[code]
            code |= 1 << player
    return total / math.factorial(n)


def spent(estimator, game, evaluations, seed=0):
    return run(game, estimator, seed=seed, budget=Budget(evaluations))


class Fixed(Permutation):
    """Walks in one given order."""

    def __init__(self, given):
        super().__init__()
        object.__setattr__(self, "given", given)

    def order(self, state, index):  # noqa: ARG002  (the base's)
        return np.array(self.given)
