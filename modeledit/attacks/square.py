"""Random search with shrinking squares, which sees outputs only: the Square attack."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from modeledit.attacks import Attack, Draws, Goal, PixelModel
from modeledit.attacks._squares import (
    NUMBERS,
    shifted,
    square,
    stripes,
    tiles,
    window_side,
)
from modeledit.scorers._options import share, whole

_PROPOSALS = 3
_CHUNK = 500  # proposals whose random numbers are held at once


@dataclass(frozen=True)
class Square(Attack):
    """Andriushchenko et al. 2020: a change within a random window is kept if it raises the margin
    of the best other class over the label's (with targets, lowers the target's cross-entropy).

    queries: forward passes per image, fewer where it reaches the goal. p: share of the pixels that
    the first windows hold; it is halved eight times on the way.
    """

    queries: int = 5000
    p: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("queries", self.queries, 1)
        share("p", self.p)

    def passes(self) -> int:
        """See the base."""
        return self.queries

    def run(self, network: PixelModel, pixels: Tensor, goal: Goal, draws: Draws) -> Tensor:
        at = (stripes if self.norm == "linf" else tiles)(pixels, draws, self.eps)
        logits = network.logits(at)
        best, todo = _worth(goal, logits), ~goal.reached(logits)
        numbers = torch.empty(0)
        for query in range(1, self.queries):
            place = (query - 1) % _CHUNK
            rows = todo.nonzero()[:, 0]
            if not len(rows):
                break
            if place == 0:
                shape = (min(_CHUNK, self.queries - query), NUMBERS + pixels.shape[1])
                numbers = draws.uniform(_PROPOSALS + query, shape)
            proposed = self._propose(at[rows], pixels[rows], numbers[rows, place], query)
            logits, wanted = network.logits(proposed), goal.at(rows)
            found, there = _worth(wanted, logits), wanted.reached(logits)
            kept = there | (found > best[rows])
            at[rows[kept]], best[rows[kept]] = proposed[kept], found[kept]
            todo[rows[there]] = False
        return at

    def _propose(self, at: Tensor, clean: Tensor, numbers: Tensor, query: int) -> Tensor:
        height, width = clean.shape[2:]
        least = 1 if self.norm == "linf" else 3  # a bump needs two halves
        side = window_side(query, self.queries, self.p, height, width, least)
        change = square if self.norm == "linf" else shifted
        return change(at, clean, numbers, side, self.eps)


def _worth(goal: Goal, logits: Tensor) -> Tensor:
    """(B,) what the attack raises."""
    return goal.margin(logits) if goal.targets is None else goal.cross_entropy(logits)
