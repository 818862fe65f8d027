"""A game that is played in other processes, which can fail, take its time or not open."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeledit.errors import DataError
from modeledit.shapley import Answer, Floats, Task, evaluate
from modeledit.shapley.workers import ProcessPool

PLAYERS = 6
WEIGHTS = torch.linspace(0.1, 1.7, PLAYERS)
FAILS, SLOW = 3, 4  # a coalition of that many players raises, or takes its time


class Toy:
    """Two games on six players, in which accidents happen."""

    players = PLAYERS
    names = ("sum", "root")

    def __init__(self, spec: ToySpec) -> None:
        self.spec = spec

    def value(self, alive: Tensor, *, keep: bool = True) -> Floats:
        del keep
        count = int(alive.sum())
        if count == SLOW:
            time.sleep(self.spec.seconds)
        if count == FAILS and self.spec.fails:
            raise DataError("three are too many")
        total = float((self.spec.weights.double() * alive).sum())
        return np.array([total, np.sqrt(total)])


@dataclass(frozen=True)
class ToySpec:
    seconds: float = 0.0
    fails: bool = False
    closed: bool = False
    weights: Tensor = WEIGHTS

    def open(self) -> Toy:
        if self.closed:
            raise DataError("the images are not there")
        return Toy(self)


def wave(rounds: int = 5) -> list[Task]:
    """Walks that remove all players, in orders of their own."""
    made = []
    for index in range(rounds):
        rank = np.random.default_rng([3, index]).permutation(PLAYERS)
        made.append(Task(index, np.array([rank >= step for step in range(PLAYERS + 1)])))
    return made


def assert_same(found: Sequence[Answer], tasks: Sequence[Task]) -> None:
    """Every task answered once, bit for bit as in one process."""
    game = ToySpec().open()
    by_index = sorted(found, key=lambda answer: answer.index)
    for one, other in zip(by_index, [evaluate(game, task) for task in tasks], strict=True):
        assert (one.index, one.evaluations) == (other.index, other.evaluations)
        assert one.values.tobytes() == other.values.tobytes()


def pids(pool: ProcessPool) -> list[int]:
    return [worker.process.pid or 0 for worker in pool._staff]
