"""Through which layers and units the training images of a class support its predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from modeledit.data import Split
from modeledit.influence.computing import as_solver, rows_of
from modeledit.influence.problem import (
    MOST_CLASSES,
    Curvature,
    Problem,
    Reading,
    Vectors,
    pose,
)
from modeledit.scorers import Found, Job, Scorer
from modeledit.scorers._options import choice, non_negative, refuse, whole
from modeledit.types import Granularity
from modeledit.units import Layer

Solver = Literal["ekfac", "cg", "lissa", "exact"]
_CLASSES, _IMAGES = 0xC1A5, 0x1A6E  # keep these draws apart from others of the same seed


@dataclass(frozen=True)
class LayerInfluence(Scorer):
    """Mean influence, helpful > 0, on the target's classes minus that on the others (the control).

    Influence of a class: mean over pairs of one of its training images and another of its images,
    g' (H + damping)^-1 g by layer; a unit's is its rows' part of the sum. `raw` is the target's
    alone. At most ten classes are drawn on each side. inputs: images of each class, half of them
    for either side of the pairs; curvature_inputs: images of all classes that H is measured on.
    header["layers"]: rows of layer, target, control, difference, sums over all of a layer's
    parameters, the largest difference in size first. Aamir et al. 2023, on Koh & Liang 2017.
    """

    granularities: ClassVar[tuple[Granularity, ...]] = ("filter",)
    granularity: Granularity = "filter"
    solver: Solver = "ekfac"
    reading: Reading = "block"
    curvature: Curvature = "gauss-newton"
    damping: float | None = None
    inputs: int = 64
    curvature_inputs: int = 512

    def __post_init__(self) -> None:
        choice("solver", self.solver, Solver)
        choice("reading", self.reading, Reading)
        choice("curvature", self.curvature, Curvature)
        as_solver(self.solver).check(self.reading, self.curvature)
        if self.damping is not None:
            non_negative("damping", self.damping)
        refuse(
            self.curvature == "hessian" and self.damping is None,
            "curvature=hessian can be indefinite: give a damping, a number above 0, or use "
            "gauss-newton",
        )
        whole("inputs", self.inputs, 2)
        whole("curvature_inputs", self.curvature_inputs, 1)

    def passes(self, shown: int, others: int, tensors: int) -> int:
        """See the base. Iterative solvers may stop long before this."""
        overall = min(self.curvature_inputs, shown + others)
        sides = min(MOST_CLASSES * self.inputs, shown) + min(MOST_CLASSES * self.inputs, others)
        if self.solver == "ekfac":
            return 3 * sides + 2 * overall * (1 + 2 * MOST_CLASSES)
        if self.solver == "exact":
            return 3 * sides + overall * (1 + 2 * MOST_CLASSES)
        blocks = tensors if self.reading == "block" else 1
        steps = int(as_solver(self.solver).steps) + 100  # type: ignore[attr-defined]
        return 3 * sides + steps * overall * (1 + 2 * blocks * (1 + 4 * MOST_CLASSES))

    def run(self, job: Job) -> Found:
        """One solve with a right-hand side per class."""
        layers = job.anatomy.layers
        modules = {name: layer.weight[0].rpartition(".")[0] for name, layer in layers.items()}
        problem = self._posed(job, list(modules.values()))
        shown, control = self._sides(problem, job)
        difference = {name: shown[name] - control[name] for name in shown}
        return Found(
            {n: _by_unit(problem, layer, difference[modules[n]]) for n, layer in layers.items()},
            {n: _by_unit(problem, layer, shown[modules[n]]) for n, layer in layers.items()},
            {"layers": _ranking(shown, control)},
        )

    def _posed(self, job: Job, modules: list[str]) -> Problem:
        return pose(
            job.model,
            job.split.sample(self.curvature_inputs, job.runtime.seed),
            reading=self.reading,
            curvature=self.curvature,
            damping=self.damping,
            layers=modules,
            runtime=job.runtime,
        )

    def _sides(self, problem: Problem, job: Job) -> tuple[Vectors, Vectors]:
        """Means over the target's classes and over the others, 0 if there are none."""
        target, labels = job.target.mask(job.split.labels), job.split.labels
        shown, others = (
            self._drawn(job, np.unique(labels[mask]).tolist()) for mask in (target, ~target)
        )
        products = self._products(problem, job, [*shown, *others])
        none = not others
        return (
            {name: rows[: len(shown)].mean(0) for name, rows in products.items()},
            {name: torch.zeros_like(rows[0]) if none else rows[len(shown) :].mean(0)
             for name, rows in products.items()},
        )  # fmt: skip

    def _drawn(self, job: Job, classes: Sequence[int]) -> list[int]:
        generator = job.runtime.generator(_CLASSES)
        order = torch.randperm(len(classes), generator=generator)[:MOST_CLASSES]
        return [classes[i] for i in order.sort().values]

    def _products(self, problem: Problem, job: Job, classes: Sequence[int]) -> dict[str, Tensor]:
        """{layer: (classes, size)}: entries whose sum is the mean influence within each class."""
        sides: tuple[list[Vectors], list[Vectors]] = ([], [])
        for label in classes:
            own = job.split.where(job.split.labels == label)
            own = own.sample(min(self.inputs, len(own)), job.runtime.seed)
            order = torch.randperm(len(own), generator=job.runtime.generator(_IMAGES)).numpy()
            # An image of its own influence says nothing of others; a lone one must do.
            halves = (order[::2], order[1::2] if len(own) > 1 else order)
            for side, half in zip(sides, halves, strict=True):
                side.append(_mean_gradient(problem, own.subset(half)))
        train, test = (
            {layer.name: torch.stack([v[layer.name] for v in side]) for layer in problem.layers}
            for side in sides
        )
        inverse = as_solver(self.solver).fit(problem)
        solved = problem.parted(inverse(problem.joined(test)))
        return {name: train[name] * solved[name] for name in train}


def _mean_gradient(problem: Problem, split: Split) -> dict[str, Tensor]:
    like = problem.gradients.dtype
    total = {
        layer.name: torch.zeros(layer.size, dtype=like, device=problem.runtime.device)
        for layer in problem.layers
    }
    for _, name, rows in rows_of(problem, split.batches(problem.runtime)):
        total[name] += rows.sum(0)
    return {name: rows / len(split) for name, rows in total.items()}


def _by_unit(problem: Problem, layer: Layer, entries: Tensor) -> Tensor:
    """(units,) sums over each unit's rows of the weight, which comes first; biases are left out."""
    weight = problem.model.get_parameter(layer.weight[0])
    rows = entries[: weight.numel()].reshape(len(weight), -1)
    rows = rows[layer.first : layer.first + layer.units * layer.width]
    return rows.reshape(layer.units, -1).sum(1)


def _ranking(shown: Vectors, control: Vectors) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name in shown:
        target, other = float(shown[name].sum()), float(control[name].sum())
        row = {"target": target, "control": other, "difference": target - other}
        found.append({"layer": name, **row})
    return sorted(found, key=lambda row: -abs(float(row["difference"])))
