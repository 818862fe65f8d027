"""Shapley values of filters by one integral: all of them fade to their pins, a few steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from modeledit.data import Split
from modeledit.gate_orders import gate_orders, pilot_passes
from modeledit.gate_path import gate_ig
from modeledit.runtime import Runtime
from modeledit.scorers import Found, Job, Scorer
from modeledit.scorers._games import EVERY, Value, check_pins, found, lay, oriented
from modeledit.scorers._options import choice, flag, refuse, whole
from modeledit.scorers._retained import ranked, ranked_passes
from modeledit.targets import GroupRecall, Target
from modeledit.types import Granularity

Smooth = Literal["margin", "loss", "probability"]
Path = Literal["straight", "orders"]


@dataclass(frozen=True)
class GateIg(Scorer):
    """Integral over alpha in 0..1 of dV/dm_i at m = alpha, where m = 0 pins a unit and 1 does not.

    The Aumann-Shapley value of the gated network (integrated gradients over gates), V the mean
    `metric` over the target's images: a cheap stand-in for Shapley values, which it is close to
    and not equal to. Summed over all units it is V(all) - V(none), up to quadrature.
    metric: margin, loss (its negative, so that larger = better) or probability.
    path: "straight" fades all units together; "orders" a part at a time, in random orders
    of each image's own, with gates drawn for each unit: nearer to Shapley values of networks that
    break down early, and the sum is right only roughly.
    steps: Gauss-Legendre nodes, or for orders an even number of parts. images: most that V is read
    from. layers: comma-separated shell patterns, "" for all; units of others count 0.
    value: what a unit fades to, its mean output over `calibration` images (mean), what its own
    BatchNorm or bias adds (beta), or 0 after a BatchNorm (zero).
    pins_from: a Scores file whose constants are used instead, for scores that are to be merged.
    selective: for class targets, `values` are an order of editing: the most effect on the class for
    the least on others, both measured anew as more and more units are pinned.
    `raw` is the plain value. Sundararajan et al. 2017; Dhamdhere et al. 2019.
    """

    granularities: ClassVar[tuple[Granularity, ...]] = ("filter",)
    targets: ClassVar[tuple[type[Target], ...]] = EVERY
    granularity: Granularity = "filter"
    metric: Smooth = "margin"
    path: Path = "straight"
    steps: int = 4
    images: int = 512
    layers: str = ""
    value: Value = "mean"
    calibration: int = 1024
    pins_from: str = ""
    selective: bool = True

    def __post_init__(self) -> None:
        choice("metric", self.metric, Smooth)
        choice("path", self.path, Path)
        whole("steps", self.steps, 1)
        refuse(
            self.path == "orders" and self.steps % 2 == 1,
            f"steps={self.steps} would leave half of an order out: give an even number",
        )
        whole("images", self.images, 1)
        choice("value", self.value, Value)
        whole("calibration", self.calibration, 1)
        check_pins(self.pins_from, self.value)
        flag("selective", self.selective)

    def check(self, split: Split, target: Target, runtime: Runtime) -> None:
        """See the base."""
        super().check(split, target, runtime)
        refuse(
            target == GroupRecall("worst"),
            "gate-ig needs slopes, which the worst of several groups has not: use the target group "
            "(their mean), or neuron-shapley",
        )

    def passes(self, shown: int, others: int, tensors: int) -> int:
        """See the base."""
        del tensors
        calibrated = min(self.calibration, shown + others)
        images = min(self.images, shown)
        faded = 3 * self.steps * images
        if self.path == "orders":
            faded += pilot_passes(images)
        return calibrated + faded + (ranked_passes(shown, others) if self.selective else 0)

    def run(self, job: Job) -> Found:
        """A forward and a backward pass a step, for each image."""
        table = lay(job, self.metric, self)
        integrate = gate_orders if self.path == "orders" else gate_ig
        phi = integrate(
            job.model,
            job.anatomy,
            table.layers,
            table.means,
            table.batches,
            table.reading.parts,
            job.runtime,
            self.steps,
        )[:, 0]
        values = oriented(job, phi)
        if self.selective:
            values = ranked(job, table, table.units, values)
        return found(job, table, table.units, values, phi, {})
