"""Leave-one-out, scored again after every removal: filters that only help together, or no longer.

Greedy backward selection with re-scoring. Ours: the goal weighs what the target gains against whose
answers change, and first-order effects of every image say which units are worth an exact value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from modeledit.games import Floats, Reading, per_image
from modeledit.gate_orders import Fade
from modeledit.gate_path import Gated
from modeledit.gate_slopes import image_slopes
from modeledit.scorers import Found, Job, Scorer
from modeledit.scorers._cells import Cells
from modeledit.scorers._games import EVERY, Table, Value, constants, found, matching
from modeledit.scorers._options import choice, non_negative, positive, whole
from modeledit.targets import GroupRecall, Target
from modeledit.types import Granularity, Unit


@dataclass(frozen=True)
class StepwiseLeaveOneOut(Scorer):
    """values: how many units go from this one on, 0 = never; raw: by how much pinning the unit
    alone lowers J in the beginning: exactly for those shortlisted then, to first order for others.

    Cells are groups of people (targets `group`, `group:worst`), or classes and the attacked images.
    Each image has the smooth error l = sigmoid(-margin / width), in 0..1, where it is to be
    misclassified l = sigmoid(margin / width). L_c is its mean over cell c, T the mean of L_c over
    the cells to change, for `group:worst` their soft maximum 0.06 log mean exp(L_c / 0.06), and

        J = T + anchor * sum_c w_c mean_c (l - l0)^2,

    l0 the unedited network's, w_c the same for all other classes and for all groups; for
    `group:worst` in proportion to 1 - the slope of T in L_c at the beginning; 0 for what is to be
    misclassified. Each round pins the unit that lowers J most, until none does or for `rounds`. J
    is known exactly of `shortlist` units, those whose J is the lowest by every image's slope of the
    margin in the unit's gate, plus the error of that when the unit was last valued.

    The header's `objective` is J before the first round and after each, `cells` are L_c then.

    anchor: None is 4 for groups, 20 for classes and attacks, of whose target everything is to go.
    images, retained: most that are read of the cells to change, and of others; of each as many.
    layers: comma-separated shell patterns, "" for all; units of others count 0. value: a pinned
    unit is held at its mean output over `calibration` images (mean), at what its own BatchNorm or
    bias adds (beta), or at 0 after a BatchNorm (zero). cache_mb: memory for activations that are
    kept between evaluations; what does not fit is computed again.
    """

    granularities: ClassVar[tuple[Granularity, ...]] = ("filter",)
    targets: ClassVar[tuple[type[Target], ...]] = EVERY
    ordered: ClassVar[bool] = True
    granularity: Granularity = "filter"
    images: int = 1024
    retained: int = 512
    rounds: int = 40
    shortlist: int = 16
    anchor: float | None = None
    width: float = 2.0
    layers: str = ""
    value: Value = "mean"
    calibration: int = 1024
    cache_mb: int = 1024

    def __post_init__(self) -> None:
        for option in ("images", "retained", "rounds", "shortlist", "calibration"):
            whole(option, getattr(self, option), 1)
        if self.anchor is not None:
            non_negative("anchor", self.anchor)
        whole("cache_mb", self.cache_mb, 0)
        positive("width", self.width)
        choice("value", self.value, Value)

    def passes(self, shown: int, others: int, tensors: int) -> int:
        """See the base."""
        del tensors
        read = min(self.images, shown) + min(self.retained, others)
        return min(self.calibration, shown + others) + read * self.rounds * (4 + self.shortlist)

    def run(self, job: Job) -> Found:
        """Play the removals through on sub-networks and write down when each unit went."""
        names = matching(job.anatomy, self.layers)
        batches, cells = Cells.of(job, self.images, self.retained)
        reading = Reading(cells.names, "margin", cells.members)
        units = tuple(Unit(n, i) for n in names for i in range(job.anatomy.layers[n].units))
        held = constants(job, self.value, names, self.calibration)
        table = Table(names, units, held, batches, reading)
        play = _Play(self, job, table, cells)
        order = play.order()
        values = np.zeros(len(play.units))
        values[order] = np.arange(len(order), 0, -1)
        header = {
            "allocation": "global",
            "steps": list(range(1, len(order) + 1)),
            "objective": play.objective,
            "cells": dict(zip(cells.names, play.began, strict=True)),
            "engine": play.engine,
        }
        return found(job, table, play.units, values, play.first, header)


class _Play:
    """One run of the rounds. n units, N images, k cells."""

    def __init__(self, options: StepwiseLeaveOneOut, job: Job, table: Table, cells: Cells) -> None:
        self._options, self._job, self._table, self._cells = options, job, table, cells
        self._networks = table.spec(job, options.cache_mb).open(job.runtime).networks
        self.units, self.engine = self._networks.units, self._networks.path
        self._places = table.places(self.units)
        gated = Gated.of(job.model, job.anatomy, table.layers, table.means)
        self._gated = gated
        self._fades = [Fade.of(job.model, gated, layer) for layer in gated.layers]
        self._alive = torch.ones(len(self.units), dtype=torch.bool)
        self._margins = self._read(self._networks.logits(self._alive))
        self._before = self._errors(self._margins)
        losses = cells.losses(self._before)
        self.began: list[float] = losses.tolist()
        groups = isinstance(job.target, GroupRecall)
        self._anchor = options.anchor if options.anchor is not None else 4.0 if groups else 20.0
        self._keepers = cells.keepers(losses)
        self._bias = np.zeros(len(self.units))  # of the predicted J, when last valued
        self.objective: list[float] = [float(self._j(self._margins))]
        self.first = np.zeros(len(self.units))

    def order(self) -> list[int]:
        """Positions of units in the order in which they are pinned."""
        taken: list[int] = []
        progress, rounds = self._job.runtime.progress, self._options.rounds
        with progress.stage("rounds of removal", rounds) as tick:
            for number in range(rounds):
                best = self._round(number)
                tick(1)
                if best is None:
                    break
                taken.append(best)
                start, now = self.objective[0], self.objective[-1]
                progress.status(
                    f"{len(taken)} pinned, J {start:.4f} -> {now:.4f}: {self.units[best]}"
                )
        return taken

    def _round(self, number: int) -> int | None:
        """The unit that was pinned; None where none of the shortlist lowers J."""
        left = np.flatnonzero(self._alive.numpy())
        predicted = self._predicted()
        guess = predicted + self._bias
        few = left[np.argsort(guess[left], kind="stable")[: self._options.shortlist]]
        if not len(few):
            return None
        alive = self._alive.repeat(len(few), 1)
        alive[torch.arange(len(few)), torch.from_numpy(few)] = False
        exact = np.array(
            [
                float(self._j(self._read(logits)))
                for logits in self._networks.many(alive, keep=False)
            ]
        )
        self._bias[few] = exact - predicted[few]
        if number == 0:
            self.first = self.objective[0] - predicted
            self.first[few] = self.objective[0] - exact
        best = int(exact.argmin())
        if exact[best] >= self.objective[-1]:
            return None
        self._alive[few[best]] = False
        self._margins = self._read(self._networks.logits(self._alive))
        self.objective.append(float(self._j(self._margins)))
        return int(few[best])

    def _predicted(self) -> Floats:
        """(n,) J with one unit more pinned, had each image's margin a constant slope."""
        alive = torch.ones(len(self._table.units))
        alive[self._places] = self._alive.float()
        model, runtime = self._job.model, self._job.runtime
        slopes = torch.cat(
            [
                image_slopes(model, self._gated, self._fades, alive, batch, _margin, runtime)
                for batch in self._table.batches
            ]
        ).numpy()[:, self._places]
        found: Floats = self._j((self._margins[:, None] - slopes).T)
        return found

    def _read(self, logits: Tensor) -> Floats:
        """(N,) margins"""
        found: Floats = _margin(logits, self._networks.labels).double().numpy()
        return found

    def _errors(self, margins: Floats) -> Floats:
        """(..., N) smooth errors"""
        # tanh, as exp overflows
        found: Floats = 0.5 + 0.5 * np.tanh(self._cells.signs * margins / (2 * self._options.width))
        return found

    def _j(self, margins: Floats) -> Floats:
        """(...) from (..., N)"""
        errors = self._errors(margins)
        changes = self._cells.losses(np.square(errors - self._before)) @ self._keepers
        found: Floats = self._cells.goal(self._cells.losses(errors)) + self._anchor * changes
        return found


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    return per_image(logits, labels, "margin")
