"""Shapley values of filters: what each adds, on average over all sets of other filters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from modeledit.checkpoint import identity
from modeledit.errors import ModelEditError
from modeledit.games import RANGES, FilterGame, GameSpec, Metric
from modeledit.gate_orders import gate_orders, pilot_passes
from modeledit.gate_path import gate_ig
from modeledit.scorers import Found, Job, Scorer
from modeledit.scorers._games import EVERY, Table, Value, check_pins, found, lay, oriented
from modeledit.scorers._options import choice, flag, refuse, whole
from modeledit.scorers._retained import ranked, ranked_passes
from modeledit.scorers._watching import watching
from modeledit.shapley import Estimate, Estimator, Floats
from modeledit.shapley.cmcs import Cmcs
from modeledit.shapley.leverage import LeverageCentred
from modeledit.shapley.leverage_top import LeverageTop
from modeledit.shapley.permutation import Antithetic, Permutation
from modeledit.shapley.racing import Racing
from modeledit.shapley.running import Budget, Pool, SerialPool, run
from modeledit.shapley.saved import sketch
from modeledit.shapley.tmab import Tmab
from modeledit.shapley.workers import pool_for
from modeledit.targets import ForgetClass, GroupRecall, Target
from modeledit.types import Granularity, Unit

Name = Literal[
    "permutation", "antithetic", "tmab", "cmcs", "racing", "leverage-centred", "leverage-top"
]
KINDS: Mapping[Name, type[Estimator]] = {
    "permutation": Permutation,
    "antithetic": Antithetic,
    "tmab": Tmab,
    "cmcs": Cmcs,
    "racing": Racing,
    "leverage-centred": LeverageCentred,
    "leverage-top": LeverageTop,
}
ENOUGH = 2000  # evaluations, where the estimator has no end of its own
STEPS = 4  # of a prior's straight path
WINDOWS = 10  # of a prior's random orders
THEIRS = (
    "delta",
    "k",
    "patience",
    "published",
    "relative",
    "spread",
    "tolerance",
    "truncation",
    "union",
    "wave",
)  # options of estimators


@dataclass(frozen=True)
class NeuronShapley(Scorer):
    """phi_i = mean over orders of V(those before i, and i) - V(those before i); the sum is
    V(all) - V(none). V: the `metric` over the target's images with all other units pinned.

    Ghorbani & Zou, NeurIPS 2020. Here each V is read from the same images, drawn once, which is
    what lets parts of the network be kept between evaluations (they draw 128 anew per order).

    estimator: how evaluations are spent. evaluations: how many, if no budget is given; None is
    the estimator's own end, or 2,000.
    k, delta, tolerance, relative, truncation, patience, published, union, wave: the estimator's,
    see modeledit.shapley; None is its own default, and one that it has not is refused. The k are
    those that are edited first: of the largest values, for groups of the smallest.
    spread: length of the interval that holds every marginal; None is 2 for accuracy, probability.
    prior: gate-path values by both paths, for estimators that can use them.
    metric: accuracy (recall of a class, success of an attack), loss (its negative, so that larger
    = better), probability or margin; auto is margin for a class, accuracy for any other target.
    images: most that V is read from. layers: comma-separated shell patterns, "" for all; units of
    others count 0. value: a pinned unit is held at its mean output over `calibration` images
    (mean), at what its own BatchNorm or bias adds (beta), or at 0 after a BatchNorm (zero).
    pins_from: a Scores file whose constants are used instead, so that scores made by several owners
    of data are of the same game and can be merged. cache_mb: memory, of each process, for
    activations that are kept between evaluations; what does not fit is computed again.
    selective: for class targets, `values` are an order of editing: the most effect on the class for
    the least on others, both measured anew as more and more units are pinned.
    `raw` is the plain value and `half_width` that of its confidence interval.
    """

    granularities: ClassVar[tuple[Granularity, ...]] = ("filter",)
    targets: ClassVar[tuple[type[Target], ...]] = EVERY
    sampled: ClassVar[bool] = True
    granularity: Granularity = "filter"
    estimator: Name = "leverage-centred"
    evaluations: int | None = None
    metric: Literal["auto"] | Metric = "auto"
    images: int = 128
    layers: str = ""
    value: Value = "mean"
    calibration: int = 1024
    cache_mb: int = 1024
    pins_from: str = ""
    selective: bool = True
    prior: bool = True
    spread: float | None = None
    k: int | None = None
    delta: float | None = None
    tolerance: float | None = None
    relative: bool | None = None
    truncation: float | None = None
    patience: int | None = None
    published: bool | None = None
    union: bool | None = None
    wave: int | None = None

    def __post_init__(self) -> None:
        choice("estimator", self.estimator, Name)
        choice("metric", self.metric, Literal["auto", "accuracy", "loss", "probability", "margin"])
        whole("images", self.images, 1)
        whole("calibration", self.calibration, 1)
        whole("cache_mb", self.cache_mb, 0)
        if self.evaluations is not None:
            whole("evaluations", self.evaluations, 2)
        choice("value", self.value, Value)
        check_pins(self.pins_from, self.value)
        flag("selective", self.selective)
        flag("prior", self.prior)
        self._kind()

    def passes(self, shown: int, others: int, tensors: int) -> int:
        """See the base. Where the estimator decides when to stop, the default number stands in."""
        del tensors
        images = min(self.images, shown)
        played = (self.evaluations or ENOUGH) * images
        yardstick = ranked_passes(shown, others, sampled=True) if self.selective else 0
        guessed = 3 * (STEPS + WINDOWS) * images + pilot_passes(images)
        surrogate = guessed if self._takes_prior else 0
        return min(self.calibration, shown + others) + played + surrogate + yardstick

    def run(self, job: Job) -> Found:
        """As many evaluations as the budget or the estimator says."""
        table = lay(job, self._metric(job.target), self)
        spec = table.spec(job, self.cache_mb)
        game = spec.open(job.runtime)
        units = game.networks.units
        metric = table.reading.metric
        # What the estimator refuses, before the prior, which can take long:
        self._made(metric, job.target).start(len(units), 1, job.runtime.seed)
        estimator = self._made(metric, job.target, self._prior(job, table, units))
        meter = job.runtime.meter
        before = meter.images
        sampled = self._sampled(job, table, spec, game, estimator)
        saved = sampled.evaluations * len(game.networks.labels) - (meter.images - before)
        raw, widths = sampled.values[:, 0], sampled.half_width[:, 0]
        values = oriented(job, raw)
        if self.selective:
            values = ranked(job, table, units, values, sampled=True)
        header = {
            "engine": game.networks.path,
            "evaluations": sampled.evaluations,
            "resolved": int(sampled.resolved.sum()),
            # As if every network had been run whole: what was kept between evaluations, and what
            # was done before an interruption, must not show in the file.
            "passes": round(meter.images + saved),
        }
        return found(job, table, units, values, raw, header, widths)

    def _sampled(
        self, job: Job, table: Table, spec: GameSpec, game: FilterGame, estimator: Estimator
    ) -> Estimate:
        runtime = job.runtime
        budget = runtime.budget
        if budget is None and (self.evaluations is not None or not estimator.stops):
            budget = Budget(self.evaluations or ENOUGH)
        sign = -1.0 if isinstance(job.target, GroupRecall) else 1.0
        elsewhere = runtime.ray is not None or runtime.workers > 1
        with ExitStack() as stack:
            watch = stack.enter_context(watching(runtime.progress, budget, game.units, sign))
            pool: Pool = SerialPool(game)
            if elsewhere:
                gpus = float(runtime.device.type == "cuda")
                pool = stack.enter_context(pool_for(spec, runtime.workers, runtime.ray, gpus=gpus))
            estimate = run(
                pool,
                estimator,
                seed=runtime.seed,
                budget=budget,
                resume=runtime.resume,
                anew=runtime.anew,
                watch=watch,
                identity=self._identity(job, table),
            )
            watch(estimate)
        if elsewhere:  # each process has a meter of its own
            runtime.meter.forward(estimate.evaluations * table.reading.members.shape[1])
        return estimate

    def _metric(self, target: Target) -> Metric:
        if self.metric != "auto":
            return self.metric
        return "margin" if isinstance(target, ForgetClass) else "accuracy"

    def _kind(self) -> type[Estimator]:
        """The estimator's class; options that it has not are refused."""
        kind = KINDS[self.estimator]
        has = {field.name for field in fields(kind)}  # type: ignore[arg-type]
        for option in THEIRS:
            if getattr(self, option) is not None and option not in has:
                allowed = ", ".join(sorted(has & set(THEIRS)))
                raise ModelEditError(
                    f"estimator={self.estimator} has no option {option!r}: it has {allowed}"
                )
        return kind

    def _has(self, option: str) -> bool:
        return option in {field.name for field in fields(self._kind())}  # type: ignore[arg-type]

    @property
    def _takes_prior(self) -> bool:
        return self.prior and self._has("prior")

    def _made(self, metric: Metric, target: Target, prior: Floats | None = None) -> Estimator:
        given = {o: v for o in THEIRS if (v := getattr(self, o)) is not None}
        if prior is not None:
            given["prior"] = prior
        if self._has("lowest"):
            given["lowest"] = isinstance(target, GroupRecall)  # as `oriented` has it
        made = self._kind()(**given)
        refuse(
            getattr(made, "interval", "") in ("bernstein", "hoeffding")
            and RANGES[metric] is None
            and self.spread is None,
            f"the bounds of estimator={self.estimator} need the range of a marginal, and "
            f"{metric} has none: use metric=accuracy or probability, or give spread",
        )
        return made

    def _prior(self, job: Job, table: Table, units: Sequence[Unit]) -> Floats | None:
        """(n, 1, 2) of a smooth metric, for estimators that use one: the straight path is good
        where the metric changes all along it, the orders where the network breaks down early."""
        if not self._takes_prior or table.reading.over == "worst":
            return None
        smooth = table.reading
        if smooth.metric == "accuracy":
            smooth = replace(smooth, metric="probability")
        given = (job.model, job.anatomy, table.layers, table.means, table.batches, smooth.parts)
        paths = gate_ig(*given, job.runtime, STEPS), gate_orders(*given, job.runtime, WINDOWS)
        return np.stack(paths, axis=2)[table.places(units)]

    def _identity(self, job: Job, table: Table) -> dict[str, Any]:
        """What a file to resume from must have been made with, besides the estimator's options."""
        images = torch.cat([batch.images.cpu() for batch in table.batches])
        labels = torch.cat([batch.labels.cpu() for batch in table.batches])
        pins: Any = table.means
        if not isinstance(pins, str):
            pins = sketch(np.concatenate([pin.flatten().numpy() for pin in pins.values()]))
        return {
            "target": str(job.target),
            "metric": table.reading.metric,
            "layers": list(table.layers),
            "pins": pins,
            "model": identity(job.model.state_dict()),
            "images": identity({"images": images, "labels": labels}),
        }
