"""What the network loses when one filter alone is pinned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from modeledit.games import FilterGame, Floats, Metric
from modeledit.scorers import Found, Job, Scorer
from modeledit.scorers._games import EVERY, Value, check_pins, found, lay, oriented
from modeledit.scorers._options import choice, whole
from modeledit.targets import Target
from modeledit.types import Granularity

AT_ONCE = 64  # units whose logits are held together


@dataclass(frozen=True)
class LeaveOneOut(Scorer):
    """V(all) - V(all but i), signed; V is the mean `metric` over the target's images.

    metric: accuracy (recall of a class, success of an attack), loss (its negative, so that larger
    = better), probability or margin. images: most that V is read from. layers: comma-separated
    shell patterns, "" for all; units of others count 0. value: a pinned unit is held at its mean
    output over `calibration` images (mean), at what its own BatchNorm or bias adds (beta), or at 0
    after a BatchNorm (zero). No effect of a unit shows where another one stands in for it.
    pins_from: a Scores file whose constants are used instead, for scores that are to be merged.
    cache_mb: memory for activations that are kept between evaluations; what does not fit is
    computed again.
    """

    granularities: ClassVar[tuple[Granularity, ...]] = ("filter",)
    targets: ClassVar[tuple[type[Target], ...]] = EVERY
    granularity: Granularity = "filter"
    metric: Metric = "margin"
    images: int = 256
    layers: str = ""
    value: Value = "mean"
    calibration: int = 1024
    cache_mb: int = 1024
    pins_from: str = ""

    def __post_init__(self) -> None:
        choice("metric", self.metric, Metric)
        whole("images", self.images, 1)
        choice("value", self.value, Value)
        whole("calibration", self.calibration, 1)
        whole("cache_mb", self.cache_mb, 0)
        check_pins(self.pins_from, self.value)

    def passes(self, shown: int, others: int, tensors: int) -> int:
        """See the base."""
        del tensors
        return min(self.calibration, shown + others) + min(self.images, shown)

    def passes_per_unit(self, shown: int) -> int:
        """See the base."""
        return min(self.images, shown)

    def run(self, job: Job) -> Found:
        """One evaluation a unit, of the part of the network behind it."""
        table = lay(job, self.metric, self)
        game = table.spec(job, self.cache_mb).open(job.runtime)
        losses = _losses(game, job)
        header = {"engine": game.networks.path, "evaluations": game.players + 1}
        units = game.networks.units
        return found(job, table, units, oriented(job, losses), losses, header)


def _losses(game: FilterGame, job: Job) -> Floats:
    """(n,)"""
    everybody = torch.ones(game.players, dtype=torch.bool)
    whole_value = game.value(everybody)[0]
    losses = []
    with job.runtime.progress.stage("leaving one out", game.players) as tick:
        for first in range(0, game.players, AT_ONCE):
            players = torch.arange(first, min(first + AT_ONCE, game.players))
            alive = everybody.repeat(len(players), 1)
            alive[players - first, players] = False
            losses.append(whole_value - game.values(alive, keep=False)[:, 0])
            tick(len(players))
    return np.concatenate(losses)
