"""Zeroes, in small rounds, the cheapest weights that bring the worst groups level with the others.

Cells are groups of people (targets `group` and `group:worst`) or classes (others). A weight's score
tells when it is zeroed: the scorer plays the edit through on a copy. Ours: group-DRO's "worst group
first" as a linear program over weights, made anew after every round from first-order effects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from modeledit.data import Split
from modeledit.errors import DataError
from modeledit.gradients import scalar
from modeledit.scorers import Found, Job, Scorer
from modeledit.scorers._covering import cheapest
from modeledit.scorers._options import positive, refuse, share, whole
from modeledit.scorers._vector import Vector, last
from modeledit.tail import Piece, Tail
from modeledit.targets import Accuracy, ForgetClass, GroupRecall, Mask, Target
from modeledit.types import Granularity

Kind = Literal["levelled", "forgotten", "kept"]
PULL = 0.2  # price of the mean loss of all images; those of the cells sum to 1
BATCH = 50  # images of one cell per gradient whose square is taken


@dataclass(frozen=True)
class StepwiseCells(Scorer):
    """values: how many weights go from this one on, 0 = never zeroed; raw: what zeroing the weight
    takes in the first round, to first order, from the mean loss of the cells that must come down.

    The loss of a cell c is the smooth share of its images with the wrong answer, L_c = mean
    sigmoid(-margin / width), for classes to forget the right answer, sigmoid(margin / width). Over
    `rounds` a level falls from the largest of the cells' losses to their mean; cells above it must
    come down to it, those below may rise by `slack` above where they began. All cells of `group`
    (the mean), and classes to forget, have a level each that falls from their loss to 0. A round
    measures E_ci = -theta_i dL_c/dtheta_i, what zeroing weight i does to L_c to first order, on a
    fresh `fraction` of the images, and zeroes

        the set S of least sum_i d_i with sum_S E_ci <= level_c - L_c for all cells,
        d_i = |theta_i| sqrt(E g_i^2) + its mean,  g over groups of 50 images of one cell,

    at most `step` times the square root of the number of scored weights; of sets alike, the one
    that lowers the mean loss of all images. L_c is followed by the paired change of the drawn
    images; the header's `cells` are the losses at the beginning.

    share: scored are the last convolution and linear matrices before the classifier, as many as
        hold this share of all their weights.
    inputs: images of each cell to draw from.
    """

    granularities: ClassVar[tuple[Granularity, ...]] = ("weight",)
    targets: ClassVar[tuple[type[Target], ...]] = (GroupRecall, ForgetClass, Accuracy)
    share: float = 0.5
    inputs: int = 1024
    fraction: float = 0.4
    rounds: int = 24
    slack: float = 0.01
    width: float = 1.0
    step: float = 1.0
    cache_mb: int = 1024

    def __post_init__(self) -> None:
        for option in ("inputs", "rounds"):
            whole(option, getattr(self, option), 1)
        whole("cache_mb", self.cache_mb, 0)
        for option in ("slack", "width", "step"):
            positive(option, getattr(self, option))
        for option in ("share", "fraction"):
            share(option, getattr(self, option))

    def passes(self, shown: int, others: int, tensors: int) -> int:
        """See the base."""
        del tensors
        return math.ceil((2 + 3 * self.rounds * self.fraction) * (shown + others))

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
    """Images of one group or class. sign: -1 where wrong answers are lost, +1 where right ones are.

    goal: whether its loss is to fall, in any case or where it is the worst. images: how many there
    are of it, drawn or not. before: by image, piece by piece, the losses that it began with.
    """

    name: str
    tail: Tail
    sign: int
    goal: bool
    images: int
    before: tuple[Tensor, ...]

    @property
    def start(self) -> float:
        """The loss of all its images at the beginning."""
        return float(torch.cat(self.before).mean())


class _Play:
    """One run of the rounds."""

    def __init__(self, options: StepwiseCells, job: Job, names: list[str]) -> None:
        self._options, self._runtime = options, job.runtime
        self._worst = job.target == GroupRecall("worst")
        parts = members(job.split, job.target)
        self._cells = [self._cell(job, names, *part, len(parts)) for part in parts]
        self.vector = Vector(job.model, names)
        self._magnitude = self.vector.values().abs()
        self._square, self._batches = torch.zeros_like(self._magnitude), 0
        self._start = torch.tensor([cell.start for cell in self._cells])
        goal = self._start.mean() if self._worst else 0.0
        self._fall = float(self._start.max() - goal)  # of the level, over all rounds
        sizes = torch.tensor([cell.images for cell in self._cells])
        self._pull = PULL * sizes / sizes.sum()
        self.began = {cell.name: cell.start for cell in self._cells}
        self.first = torch.zeros(self.vector.size)
        self.steps: list[int] = []  # weights zeroed by the end of each round

    def _cell(
        self, job: Job, names: list[str], name: str, rows: Mask, kind: Kind, of: int
    ) -> _Cell:
        options, runtime = self._options, replace(job.runtime, batch_size=BATCH)
        drawn = job.split.where(rows).sample(options.inputs, runtime.seed)
        limit = options.cache_mb * 2**20 // of
        with runtime.progress.stage(f"first layers, {name}", len(drawn)) as tick:
            batches = drawn.batches(runtime, shuffle=True)
            tail = Tail(job.model, names, batches, runtime, tick, limit)
        refuse(
            not tail.pieces,
            f"cache_mb={options.cache_mb} does not hold what {BATCH} images of each cell need: "
            "give more",
        )
        sign = 1 if kind == "forgotten" else -1
        with torch.no_grad():
            losses = tuple(self._losses(tail, piece, sign) for piece in tail.pieces)
        return _Cell(name, tail, sign, kind != "kept", int(rows.sum()), losses)

    def order(self) -> Tensor:
        """(k,) int64 positions in the order in which they are zeroed."""
        taken = [torch.empty(0, dtype=torch.int64)]
        with self._runtime.progress.stage("rounds of scoring", self._options.rounds) as tick:
            for number in range(self._options.rounds):
                chosen = self._round(number)
                tick(1)
                if len(chosen):
                    self.vector.zero(chosen)
                    taken.append(chosen.cpu())
                    self.steps.append(sum(map(len, taken)))
        return torch.cat(taken)

    def _round(self, number: int) -> Tensor:
        """Positions to zero now, in order."""
        weights = self.vector.values()
        measured = [self._measure(c, cell, number) for c, cell in enumerate(self._cells)]
        effects = torch.stack([-weights * gradient for gradient, _ in measured])
        change = torch.tensor([change for _, change in measured])
        if number == 0:
            goals = [c for c, cell in enumerate(self._cells) if cell.goal]
            self.first = -effects[goals].mean(0).cpu()
        options = self._options
        reach = 2 * self._fall / options.rounds
        wanted = (self._allowed(number + 1) - self._start - change).clamp(-reach, options.slack)
        typical = self._magnitude * (self._square / self._batches).sqrt()
        costs = typical + typical.mean() + torch.finfo(typical.dtype).tiny
        most = math.ceil(options.step * math.sqrt(self.vector.size))
        wanted, pull = (part.to(effects.device) for part in (wanted, self._pull))
        return cheapest(effects, costs, wanted, pull, options.slack, most)

    def _allowed(self, rounds: int) -> Tensor:
        """(cells,) losses after so many rounds."""
        part = rounds / self._options.rounds
        goal = torch.tensor([cell.goal for cell in self._cells])
        start = self._start
        level = start.max() - self._fall * part if self._worst else start * (1 - part)
        return torch.where(goal, level, torch.inf).minimum(self._start + self._options.slack)

    def _measure(self, position: int, cell: _Cell, number: int) -> tuple[Tensor, float]:
        """The gradient of a cell's loss and its change since the beginning, on drawn images."""
        pieces = len(cell.tail.pieces)
        order = torch.randperm(pieces, generator=self._runtime.generator(number, position))
        total, change, count = torch.zeros_like(self._magnitude), 0.0, 0
        for i in order[: math.ceil(self._options.fraction * pieces)].tolist():
            losses = self._losses(cell.tail, cell.tail.pieces[i], cell.sign, backward=True)
            gradient = self.vector.gradient(losses.sum())
            total += gradient
            self._square.addcmul_(gradient, gradient, value=1 / len(losses) ** 2)
            self._batches += 1
            change += float((losses.detach() - cell.before[i]).sum())
            count += len(losses)
        return total / count, change / count

    def _losses(self, tail: Tail, piece: Piece, sign: int, backward: bool = False) -> Tensor:
        logits = tail.logits(piece, self._runtime, backward=backward)
        margins = scalar(logits, piece.labels, "margin")
        return torch.sigmoid(sign * margins / self._options.width)


def members(split: Split, target: Target) -> list[tuple[str, Mask, Kind]]:
    """The cells: name, (n,) which examples, and what is to become of them."""
    if isinstance(target, GroupRecall):
        if split.groups is None:
            raise DataError(
                f"{target} compares groups, and the data has none: name their column with "
                "--group-column"
            )
        names = np.unique(split.groups)
        refuse(
            len(names) < 2,
            f"all images are of group {str(names[0])!r}: {target} compares two groups or more",
        )
        return [(str(g), split.groups == g, "levelled") for g in names]
    shown = target.mask(split.labels)
    forgotten = set(split.labels[shown].tolist())
    return [
        (str(label), split.labels == label, "forgotten" if label in forgotten else "kept")
        for label in np.unique(split.labels).tolist()
    ]
