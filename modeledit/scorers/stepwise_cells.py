"""Zeroes, in many small steps, weights that wrong the worst group; the others keep their answers.

Cells are groups of people (targets `group` and `group:worst`) or classes (others). A weight's score
tells when it is zeroed: the scorer plays the edit through on a copy. Ours: group DRO's "worst group
first" and the distillation of the unedited network on everybody else, as a descent by zeroing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from modeledit.gradients import scalar
from modeledit.scorers import Found, Job, Scorer
from modeledit.scorers._cells import EVEN, Kind, Part, parts
from modeledit.scorers._options import positive, refuse, share, whole
from modeledit.scorers._vector import Vector, last
from modeledit.tail import Tail
from modeledit.targets import Accuracy, ForgetClass, GroupRecall, Target
from modeledit.types import Granularity

BATCH = 16  # images of one cell that are drawn together
LEARN, KEEP = 4, 12  # batches of a round: of the cells to change, of those to leave alone
HURT = 0.01  # a cell whose loss has grown by so much more keeps its answers e times as dearly
MEMORY = 0.95  # of the running means, from one round to the next
RELAXED = 1 / 16  # of the price of changed answers is left in the last round
SHOWN = 40  # states of the edit that the search is to try
WARM = 10  # rounds that only measure: the typical gradient has to be known first


@dataclass(frozen=True)
class StepwiseCells(Scorer):
    """values: how many weights go from this one on, 0 = never zeroed; raw: what zeroing the weight
    takes at the beginning, to first order, from sum_c p_c L_c.

    Each image has the smooth error l = sigmoid(-margin / width), in 0..1, for classes to forget
    l = sigmoid(margin / width). L_c is its mean over cell c. The cells' prices p_c sum to 1: for
    `group:worst` they are a softmax of L_c / 0.06, made anew in every round, else all cells of
    `group`, and classes to forget, have the same. Zeroing weights is to lower

        J = sum_c p_c L_c + anchor * sum_c q_c mean_c (l - l0)^2,

    l0 the unedited network's, q_c in proportion to (1 - p_c) exp((L_c - L_c before) / 0.01), and 0
    for classes to forget. Both sums are estimated in every round on a few images; g is the running
    mean of the gradient of J. Zeroed are the `step` times square root of the number of scored
    weights with the largest positive

        theta_i g_i / (d_i + mean of d),  d_i = |theta_i| sqrt(mean over rounds of (dJ/dtheta_i)^2).

    The header's `cells` are L_c at the beginning.

    share: scored are the last convolution and linear matrices before the classifier, as many as
        hold this share of all their weights.
    inputs: images of each cell to draw from.
    """

    granularities: ClassVar[tuple[Granularity, ...]] = ("weight",)
    targets: ClassVar[tuple[type[Target], ...]] = (GroupRecall, ForgetClass, Accuracy)
    ordered: ClassVar[bool] = True
    share: float = 0.5
    inputs: int = 1024
    rounds: int = 720
    anchor: float = 20.0
    width: float = 2.0
    step: float = 0.016
    cache_mb: int = 1024

    def __post_init__(self) -> None:
        for option in ("inputs", "rounds"):
            whole(option, getattr(self, option), 1)
        whole("cache_mb", self.cache_mb, 0)
        for option in ("anchor", "width", "step"):
            positive(option, getattr(self, option))
        share("share", self.share)

    def passes(self, shown: int, others: int, tensors: int) -> int:
        """See the base."""
        del tensors
        rounds = WARM + self.rounds
        return 5 * (shown + others) + 3 * rounds * (LEARN + KEEP) * min(BATCH, shown + others)

    def run(self, job: Job) -> Found:
        """Play the edit through on the job's copy and write down when each weight went."""
        names = last(job.anatomy.weights, job.original, self.share)
        play = _Play(self, job, names)
        order = play.order()
        values = torch.zeros(play.vector.size)
        values[order] = torch.arange(len(order), 0, -1, dtype=torch.float32)
        never = {name: torch.zeros(job.original[name].shape) for name in job.anatomy.weights}
        return Found(
            values=never | play.vector.by_name(values),
            raw=never | play.vector.by_name(play.first),
            header={"allocation": "global", "steps": play.steps, "cells": play.began},
        )


@dataclass(frozen=True, eq=False)
class _Cell:
    """Images of one group or class. before: by batch, the smooth errors that it began with."""

    name: str
    tail: Tail
    kind: Kind
    before: tuple[Tensor, ...]

    @property
    def start(self) -> float:
        """The mean error of all its images at the beginning."""
        return float(torch.cat(self.before).mean())


class _Play:
    """One run of the rounds."""

    def __init__(self, options: StepwiseCells, job: Job, names: list[str]) -> None:
        self._options, self._runtime = options, job.runtime
        self._worst = job.target == GroupRecall("worst")
        self.vector = Vector(job.model, names)
        own = parts(job.split, job.target)
        self._cells = [self._cell(job, names, part, len(own)) for part in own]
        self.began = {cell.name: cell.start for cell in self._cells}
        self._losses = torch.tensor([cell.start for cell in self._cells])
        self._magnitude = self.vector.values().abs()
        self._square = torch.zeros_like(self._magnitude)
        self._gradient = self._whole()
        self.first = (self.vector.values() * self._gradient).cpu()
        self.steps: list[int] = []  # weights zeroed by the end of rounds, for the search

    def _cell(self, job: Job, names: list[str], part: Part, of: int) -> _Cell:
        name, kind = part.name, part.kind
        options, runtime = self._options, replace(job.runtime, batch_size=BATCH)
        drawn = job.split.where(part.rows).sample(options.inputs, runtime.seed)
        limit = options.cache_mb * 2**20 // of
        with runtime.progress.stage(f"first layers, {name}", len(drawn)) as tick:
            batches = drawn.batches(runtime, shuffle=True)
            tail = Tail(job.model, names, batches, runtime, tick, limit)
        refuse(
            not tail.pieces,
            f"cache_mb={options.cache_mb} does not hold what {BATCH} images of each cell need: "
            "give more",
        )
        with torch.no_grad():
            before = tuple(self._errors(tail, i, kind) for i in range(len(tail.pieces)))
        return _Cell(name, tail, kind, before)

    def order(self) -> Tensor:
        """(k,) int64 positions in the order in which they are zeroed."""
        options = self._options
        taken, count = [torch.empty(0, dtype=torch.int64)], 0
        with self._runtime.progress.stage("rounds of scoring", WARM + options.rounds) as tick:
            for number in range(1 - WARM, options.rounds + 1):
                self._measure(number)
                tick(1)
                if number < 1:
                    continue
                chosen = self._chosen(number + WARM)
                self.vector.zero(chosen)
                taken.append(chosen.cpu())
                count += len(chosen)
                if shown(number, options.rounds) and count > sum(self.steps[-1:]):
                    self.steps.append(count)
        return torch.cat(taken)

    def _measure(self, number: int) -> None:
        """Follow J's gradient and the cells' losses with this round's images."""
        generator = self._runtime.generator(number + WARM)
        prices = self._prices()
        grown = self._losses - torch.tensor([cell.start for cell in self._cells])
        others = kept(prices, grown, [cell.kind for cell in self._cells])
        anchor = relaxed(self._options.anchor, number, self._options.rounds)
        gradient = torch.zeros_like(self._magnitude)
        for c in drawn(prices, LEARN, generator):
            errors, _ = self._batch(c, generator)
            gradient += self.vector.gradient(errors.mean()) / LEARN
        for c in drawn(others, KEEP, generator) if others.any() else ():
            errors, before = self._batch(c, generator)
            moved = (errors - before).square().mean()
            gradient += self.vector.gradient(moved) * (anchor / KEEP)
        self._gradient.lerp_(gradient, 1 - MEMORY)
        self._square += gradient.square()

    def _batch(self, c: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Errors of some images of a cell, and before the edit; its loss is followed by them."""
        cell = self._cells[c]
        i = int(torch.randint(len(cell.before), (1,), generator=generator))
        errors, before = self._errors(cell.tail, i, cell.kind, backward=True), cell.before[i]
        now = cell.start + float((errors.detach() - before).mean())
        self._losses[c] += (1 - MEMORY) * (now - float(self._losses[c]))
        return errors, before

    def _chosen(self, rounds: int) -> Tensor:
        """(k,) positions to zero now, the best first."""
        weights = self.vector.values()
        typical = self._magnitude * (self._square / rounds).sqrt()
        costs = typical + typical.mean() + torch.finfo(typical.dtype).tiny
        worth = weights * self._gradient / costs
        best = worth.topk(min(math.ceil(self._options.step * math.sqrt(len(worth))), len(worth)))
        return best.indices[best.values > 0]

    def _prices(self) -> Tensor:
        """(cells,) summing to 1: how much each cell's loss matters now."""
        if self._worst:
            return torch.softmax(self._losses / EVEN, 0)
        goal = torch.tensor([cell.kind != "kept" for cell in self._cells])
        return goal / goal.sum()

    def _whole(self) -> Tensor:
        """The gradient of the priced losses over all images that are kept."""
        total = torch.zeros_like(self._magnitude)
        for price, cell in zip(self._prices().tolist(), self._cells, strict=True):
            images = sum(map(len, cell.before))
            for i in range(len(cell.before)) if price else ():
                errors = self._errors(cell.tail, i, cell.kind, backward=True)
                total += self.vector.gradient(errors.sum()) * (price / images)
        return total

    def _errors(self, tail: Tail, i: int, kind: Kind, backward: bool = False) -> Tensor:
        """(B,) smooth errors of the images of one batch."""
        piece = tail.pieces[i]
        logits = tail.logits(piece, self._runtime, backward=backward)
        margins = scalar(logits, piece.labels, "margin")
        return torch.sigmoid((1 if kind == "forgotten" else -1) * margins / self._options.width)


def kept(prices: Tensor, grown: Tensor, kinds: list[Kind]) -> Tensor:
    """(cells,) weights of the answers to keep, summing to 1; all 0 where every class may go.

    grown: by how much each cell's loss is above what it was, so that nobody pays alone.
    """
    others = torch.where(torch.tensor([kind == "forgotten" for kind in kinds]), 0, 1 - prices)
    return torch.softmax(others.log() + grown / HURT, 0) if others.any() else others


def drawn(weights: Tensor, count: int, generator: torch.Generator) -> list[int]:
    """`count` positions, each as often as its weight says, or one more or less (systematic
    sampling): weights sum to 1."""
    at = (torch.arange(count) + torch.rand(1, generator=generator)) / count
    return torch.searchsorted(weights.cumsum(0), at).clamp(max=len(weights) - 1).tolist()


def relaxed(anchor: float, number: int, rounds: int) -> float:
    """The price of changed answers in a round, which falls by the same factor from each to the
    next: the search then sees how much can be gained at which price."""
    return anchor * float(RELAXED ** (max(number, 0) / rounds))


def shown(number: int, rounds: int) -> bool:
    """Whether the search is to try the edit as it is after this round."""
    return number % math.ceil(rounds / SHOWN) == 0 or number == rounds
