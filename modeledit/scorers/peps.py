"""Gradients over inputs and a ball around the parameters; by default selective for a class.

Payne, Patrick, Fernandez, "Explaining Model Parameters Using the Product Space", ICPR 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from modeledit.data import Batch
from modeledit.errors import DataError
from modeledit.gradients import Scalar
from modeledit.measures import Consistency, Mean, Measure, Stability, Variance
from modeledit.neighbourhood import Ball
from modeledit.product_space import Expectation, Neighbourhood, Space, explore
from modeledit.scorers import Found, Job, Scorer
from modeledit.scorers._options import choice, flag, non_negative, refuse, whole
from modeledit.scorers._parts import Filters, Tensors, inputs, joined, names
from modeledit.scorers._selective import selective

Kind = Literal["ig", "gradient-variance", "stability", "consistency"]


@dataclass(frozen=True)
class Peps(Scorer):
    """How F reacts to a parameter, on average over the target's examples and a ball around it.

    measure: ig (integrated gradient, real), gradient-variance (>= 0), stability and consistency
        (in [-1, 1]; by filter the cosine of the filter's whole vector).
    selective: score = E_forget[a] / (sqrt(E_retain[a^2]) + floor) with a = theta * gradient:
        expected help to the target over the typical size of the effect on everything else.
        Ours, not the paper's; built on ig.
    f: loss, logit or margin. expectation: product (over single examples) or batch (gradient of
        the mean, as in the authors' code). ball: uniform or cone (their code). neighbourhood:
        joint, or tensor (one tensor moves at a time, their code). bn_mode: eval or train (their
        code; BatchNorm alone is switched).
    inputs, retain_inputs, samples, eps: sizes of the sets of examples and parameters, and radius.
    tensors: all, or weights (convolution and linear matrices), when scoring by weight.
    reduce: a filter's score is the mean (eq. 5) or sum (fig. 8) over its weights.
    absolute: magnitudes, taken before reducing.
    replay_mb: memory for clean passes kept with neighbourhood=tensor.
    None means: selective eps 0, 1 sample, 128 inputs, 384 to retain, weights; plain eps 1,
    32 samples, 32 inputs, all tensors.
    """

    measure: Kind = "ig"
    selective: bool = True
    f: Scalar = "margin"
    expectation: Expectation = "product"
    ball: Ball = "uniform"
    neighbourhood: Neighbourhood = "joint"
    bn_mode: Literal["eval", "train"] = "eval"
    inputs: int | None = None
    retain_inputs: int | None = None
    samples: int | None = None
    eps: float | None = None
    tensors: Tensors | None = None
    reduce: Literal["mean", "sum"] = "mean"
    absolute: bool = False
    replay_mb: int = 1024

    def __post_init__(self) -> None:
        flag("selective", self.selective)
        eps = self.eps if self.eps is not None else (0.0 if self.selective else 1.0)
        plain = {"inputs": 32, "retain_inputs": 0, "samples": 32, "tensors": "all"}
        ours = {"inputs": 128, "retain_inputs": 384, "samples": 32, "tensors": "weights"}
        defaults = {**(ours if self.selective else plain), "eps": eps}
        for option, value in defaults.items():
            if getattr(self, option) is None:
                object.__setattr__(self, option, value)
        self._check_values()
        self._check_combinations()
        if self.eps == 0:  # one point: more samples would repeat it
            object.__setattr__(self, "samples", 1)

    def _check_values(self) -> None:
        choice("measure", self.measure, Kind)
        choice("f", self.f, Scalar)
        choice("expectation", self.expectation, Expectation)
        choice("ball", self.ball, Ball)
        choice("neighbourhood", self.neighbourhood, Neighbourhood)
        choice("bn_mode", self.bn_mode, Literal["eval", "train"])
        choice("tensors", self.tensors, Tensors)
        choice("reduce", self.reduce, Literal["mean", "sum"])
        flag("absolute", self.absolute)
        non_negative("eps", self.eps)
        whole("samples", self.samples, 1)
        whole("inputs", self.inputs, 1)
        whole("retain_inputs", self.retain_inputs, 1 if self.selective else 0)
        whole("replay_mb", self.replay_mb, 0)

    def _check_combinations(self) -> None:
        refuse(
            self.expectation == "product" and self.bn_mode == "train",
            "expectation=product with bn_mode=train has no meaning, batch statistics couple the "
            "examples: use expectation=batch or bn_mode=eval",
        )
        refuse(
            self.selective and self.measure != "ig",
            f"measure={self.measure} cannot be selective: use selective=False, or measure=ig",
        )
        refuse(
            self.selective and self.expectation == "batch",
            "selective takes its second moment over examples: use expectation=product",
        )
        refuse(
            self.selective and self.absolute,
            "absolute=True would hide whether a weight helps or harms: use selective=False",
        )
        refuse(
            not self.selective and bool(self.retain_inputs),
            f"retain_inputs={self.retain_inputs} is for selective=True only: leave it out",
        )
        reduced = self.granularity == "filter" and not self.selective
        refuse(
            self.reduce == "sum" and not (reduced and not self._vectors),
            "reduce=sum is for granularity=filter with selective=False and a measure of ig or "
            "gradient-variance: leave it out",
        )

    @property
    def _vectors(self) -> bool:
        """Whether a filter is one vector instead of many numbers that are reduced."""
        return self.granularity == "filter" and self.measure in ("stability", "consistency")

    def passes(self, shown: int, others: int, tensors: int) -> int:
        """See the base."""
        drawn = min(self.inputs or 0, shown) + min(self.retain_inputs or 0, others)
        places = tensors if self.neighbourhood == "tensor" and self.eps else 1
        points = (self.samples or 1) + (self.measure in ("stability", "consistency"))
        return 3 * drawn * points * places

    def run(self, job: Job) -> Found:
        """Selective or plain; see the class."""
        filters = Filters(job.anatomy)
        space = self._space(job)
        shown = inputs(job, job.target.mask(job.split.labels), self.inputs or 0)
        if self.selective:
            retained = ~job.target.mask(job.split.labels)
            refuse(
                not retained.any(),
                f"every example of the {job.split.name} split shows {job.target}, so none is left "
                "to retain: use selective=False",
            )
            others = inputs(job, retained, self.retain_inputs or 0)
            by_filter = filters if self.granularity == "filter" else None
            values = selective(space, shown, others, by_filter)
            return Found(filters.layers(values) if by_filter else values)
        if self.bn_mode == "train":
            shown = _train_batch(job, shown)
        signed = explore(space, shown, self._measure(filters))
        return self._oriented(signed, filters)

    def _space(self, job: Job) -> Space:
        # The mean is linear: per-example and batch gradients give the same ig, batches faster.
        cheap = self.measure == "ig" and not self.selective
        return Space(
            model=job.model,
            original=job.original,
            names=names(job.anatomy, self.granularity, self.tensors or "all"),
            runtime=job.runtime,
            f=self.f,
            expectation="batch" if cheap else self.expectation,
            neighbourhood=self.neighbourhood,
            ball=self.ball,
            eps=self.eps or 0.0,
            samples=self.samples or 1,
            replay_bytes=self.replay_mb * 2**20,
        )

    def _measure(self, filters: Filters) -> Measure:
        if self.measure == "ig":
            return Mean()
        if self.measure == "gradient-variance":
            return Variance()
        kind = Stability if self.measure == "stability" else Consistency
        return kind(filters if self._vectors else None)

    def _oriented(self, signed: Mapping[str, Tensor], filters: Filters) -> Found:
        """Larger = edited first, as the paper prunes: the highest value, or magnitude."""
        magnitude = {n: t.abs() for n, t in signed.items()} if self.absolute else signed
        if self.granularity == "filter":
            magnitude, signed = (
                filters.layers({n: self._reduced(filters, n, t) for n, t in values.items()})
                for values in (magnitude, signed)
            )
        return Found(magnitude, signed if self.absolute else {})

    def _reduced(self, filters: Filters, name: str, tensor: Tensor) -> Tensor:
        if self._vectors:
            return tensor
        rows = filters(name, tensor)
        return rows.mean(1) if self.reduce == "mean" else rows.sum(1)


def _train_batch(job: Job, batches: list[Batch]) -> list[Batch]:
    """One batch, whose statistics the norms take from now on; other modules stay in eval mode."""
    whole_batch = joined(batches)
    if len(whole_batch[0].labels) < 2:
        raise DataError(
            f"bn_mode=train needs at least 2 examples of {job.target}, and the {job.split.name} "
            "split has 1: use bn_mode=eval"
        )
    for module in job.model.modules():
        if isinstance(module, _BatchNorm):
            module.training = True
    return whole_batch
