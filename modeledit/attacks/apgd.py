"""Gradient steps whose length adapts to their success: auto-PGD."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from modeledit.attacks import Goal, PixelModel
from modeledit.attacks._ascent import Ascent
from modeledit.attacks._balls import project, steepest
from modeledit.attacks._goals import Loss
from modeledit.scorers._options import choice

_ALPHA = 0.75  # share of the new step; the rest is momentum
_RHO = 0.75  # of the steps since the last checkpoint must have raised the loss


@dataclass(frozen=True)
class Apgd(Ascent):
    """Croce & Hein 2020, algorithm 1: PGD with momentum, from step 2 eps on; at checkpoints an
    image's step is halved and its best point taken up again if the loss does not rise enough.

    loss: "cross-entropy", or "dlr", whose slope does not vanish where a network is very sure. The
    result is the point of the largest loss among those that reached the goal, else among all.
    `steps` gradients are taken, and the last point is looked at once more, without one.
    """

    loss: Loss = "cross-entropy"

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("loss", self.loss, Loss)

    def passes(self) -> int:
        """See the base; the last point of a start is looked at twice."""
        return super().passes() + self.restarts

    def ascend(self, network: PixelModel, clean: Tensor, start: Tensor, goal: Goal) -> Tensor:
        objective = goal.dlr if self.loss == "dlr" else goal.cross_entropy
        logits, gradient = network.gradient(start, objective)
        climb = _Climb(start, objective(logits), gradient, goal.reached(logits), 2 * self.eps)
        checks = checkpoints(self.steps)
        for k in range(1, self.steps + 1):
            ahead = project(
                climb.at + climb.step * steepest(climb.gradient, self.norm),
                clean, self.eps, self.norm,
            )  # fmt: skip
            if k > 1:
                mixed = climb.at + _ALPHA * (ahead - climb.at) + (1 - _ALPHA) * climb.momentum
                ahead = project(mixed, clean, self.eps, self.norm)
            if k < self.steps:
                logits, gradient = network.gradient(ahead, objective)
            else:  # nobody will follow this point's gradient
                logits = network.logits(ahead)
            climb.move(ahead, objective(logits), gradient, goal.reached(logits))
            if k in checks:
                climb.check()
        return climb.result()


def checkpoints(steps: int) -> frozenset[int]:
    """The steps after which the step size is reconsidered; eq. 2 of the paper and below it."""
    before, percent = 0, 22  # whole numbers: .57 of 100 steps are 57, not 58
    found = set()
    while percent <= 100:
        found.add(math.ceil(percent * steps / 100))
        before, percent = percent, percent + max(percent - before - 3, 6)
    return frozenset(found)


class _Climb:
    """Where every image of a batch stands: (B, C, H, W) points and gradients, (B,) losses."""

    def __init__(
        self, start: Tensor, loss: Tensor, gradient: Tensor, reached: Tensor, step: float
    ) -> None:
        self.at, self.gradient, self._loss = start, gradient, loss
        self.momentum = torch.zeros_like(start)
        self.step = torch.full_like(loss, step)[:, None, None, None]
        self._best, self._best_gradient, self._best_loss = start, gradient, loss
        # Kept apart: of the points that reached the goal, the one of the largest loss.
        self._there, self._there_loss = start, loss.where(reached, -torch.inf)
        self._rises = torch.zeros_like(loss)
        self._since = 0  # steps since the last checkpoint
        self._halved = torch.zeros_like(reached)
        self._loss_then = loss  # the best one at the last checkpoint

    def move(self, ahead: Tensor, loss: Tensor, gradient: Tensor, reached: Tensor) -> None:
        """Take a step to `ahead`."""
        self._rises += loss > self._loss
        self._since += 1
        self.momentum = ahead - self.at
        self.at, self.gradient, self._loss = ahead, gradient, loss
        better = loss > self._best_loss
        self._best = _pick(better, ahead, self._best)
        self._best_gradient = _pick(better, gradient, self._best_gradient)
        self._best_loss = loss.where(better, self._best_loss)
        better = reached & (loss > self._there_loss)
        self._there = _pick(better, ahead, self._there)
        self._there_loss = loss.where(better, self._there_loss)

    def check(self) -> None:
        """Conditions 1 and 2 of section 3.2: halve the step, go back to the best point."""
        stuck = ~self._halved & (self._best_loss == self._loss_then)
        halve = (self._rises < _RHO * self._since) | stuck
        self.step = _pick(halve, self.step / 2, self.step)
        before = self.at - self.momentum
        self.at = _pick(halve, self._best, self.at)
        self.momentum = self.at - before
        self.gradient = _pick(halve, self._best_gradient, self.gradient)
        self._loss = self._best_loss.where(halve, self._loss)
        self._halved, self._loss_then = halve, self._best_loss
        self._rises, self._since = torch.zeros_like(self._rises), 0

    def result(self) -> Tensor:
        return _pick(self._there_loss > -torch.inf, self._there, self._best)


def _pick(which: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Image by image."""
    return torch.where(which[:, None, None, None], yes, no)
