"""Influence by EK-FAC: Kronecker factors' eigenvectors, with the curvature measured along them.

George et al., "Fast Approximate Natural Gradient Descent in a Kronecker-factored Eigenbasis",
NeurIPS 2018; Grosse et al., "Studying Large Language Model Generalization with Influence
Functions", 2023.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from modeledit.errors import ModelEditError
from modeledit.influence.gradients import Signals
from modeledit.influence.problem import (
    MOST_CLASSES,
    Curvature,
    Problem,
    Reading,
    Vectors,
    cotangents,
)
from modeledit.influence.solver import Inverse, Solver

_DRAWS = 0xF15E  # keeps the sampled labels apart from other draws of the same seed


@dataclass(frozen=True)
class Ekfac(Solver):
    """Per layer H = (Q_G x Q_A) diag(Lambda) (Q_G x Q_A)', A = E[aa'], G = E[dd'] in eigenbasis.

    Lambda = E[(Q_G' g Q_A)^2] over single images, g the gradient of weight and bias together. The
    expectation over labels is exact up to ten classes; beyond, one label is drawn per image.
    """

    name: ClassVar[str] = "ekfac"
    readings: ClassVar[tuple[Reading, ...]] = ("block",)
    curvatures: ClassVar[tuple[Curvature, ...]] = ("gauss-newton", "empirical-fisher")

    def fit(self, problem: Problem) -> Inverse:
        """See the base."""
        if problem.gradients.others:
            raise ModelEditError(
                f"{problem.gradients.others[0].name} is no plain Conv2d or Linear, as ekfac needs: "
                "leave it out of layers, or use solver cg"
            )
        bases = {name: factor.basis() for name, factor in _factors(problem).items()}
        weights = _eigenvalues(problem, bases)
        damped = {
            name: values + problem.damped(name, float(values.mean()))
            for name, values in weights.items()
        }
        for name, values in damped.items():
            if float(values.min()) <= torch.finfo(values.dtype).tiny:
                raise ModelEditError(
                    f"damping={problem.damping} leaves the curvature of {name} singular: raise it"
                )

        def inverse(vectors: Vectors) -> Vectors:
            return {name: bases[name].divide(rows, damped[name]) for name, rows in vectors.items()}

        return inverse


class _Factor:
    """A and G of one layer, as sums: eigenvectors do not depend on the scale."""

    def __init__(self, bias: bool) -> None:
        self._bias = bias
        self._inputs: Tensor | None = None
        self._errors: Tensor | None = None

    def add_inputs(self, inputs: Tensor) -> None:
        flat = _with_one(inputs, self._bias).flatten(0, 2)  # (n, fan_in + 1)
        product = flat.T @ flat
        self._inputs = product if self._inputs is None else self._inputs.add_(product)

    def add_errors(self, errors: Tensor) -> None:
        flat = _units(errors).flatten(0, 1)  # (n, units)
        product = flat.T @ flat
        self._errors = product if self._errors is None else self._errors.add_(product)

    def basis(self) -> Basis:
        inputs, errors = self._inputs, self._errors
        self._inputs = self._errors = None  # not held beside their eigenvectors
        return Basis(_eigenvectors(inputs), _eigenvectors(errors), self._bias)


@dataclass(frozen=True, eq=False)
class Basis:
    """Q_A (fan_in + 1, same) and Q_G (units, units) of a layer; the 1 stands for a bias."""

    inputs: Tensor
    errors: Tensor
    bias: bool

    def rotated(self, signals: Signals) -> Tensor:
        """(b, units, fan_in + 1): Q_G' g Q_A of each image."""
        groups, positions = signals.inputs.shape[1:3]
        if groups == 1 and positions < len(self.errors):
            # Fewer vectors to turn than a gradient has rows: turn them before they are multiplied.
            left = signals.errors[:, 0] @ self.errors
            return left.mT @ (_with_one(signals.inputs, self.bias)[:, 0] @ self.inputs)
        return self.turn(signals.rows(self.bias))

    def turn(self, rows: Tensor) -> Tensor:
        """(b, size) -> (b, units, fan_in + 1)"""
        return self.errors.T @ self._matrix(rows) @ self.inputs

    def divide(self, rows: Tensor, values: Tensor) -> Tensor:
        """(T, size): each row divided by the curvature `values` along the eigenvectors."""
        back = self.errors @ (self.turn(rows) / values) @ self.inputs.T
        if not self.bias:
            return back.flatten(1)
        return torch.cat([back[:, :, :-1].flatten(1), back[:, :, -1]], 1)

    def _matrix(self, rows: Tensor) -> Tensor:
        units = len(self.errors)
        if not self.bias:
            return rows.reshape(len(rows), units, -1)
        weight = rows[:, :-units].reshape(len(rows), units, -1)
        return torch.cat([weight, rows[:, -units:, None]], 2)


def _signals(problem: Problem, stage: str) -> Iterator[tuple[bool, Signals]]:
    """Inputs and errors of every image, label by label; True with the first label."""
    draws = torch.rand(len(problem.train), generator=problem.runtime.generator(_DRAWS))
    progress = problem.runtime.progress.stage(stage, len(problem.train))
    with progress as tick:
        for one in problem.gradients.passes(problem.batches()):
            several = one.logits.shape[1] <= MOST_CLASSES
            drawn = None if several else draws[one.indices.cpu()].to(one.logits.device)
            kinds = cotangents(one.logits, one.labels, problem.curvature, drawn)
            for k, cotangent in enumerate(kinds):
                for signals in one.signals(cotangent, again=k + 1 < len(kinds)):
                    yield k == 0, signals
            tick(len(one.labels))


def _factors(problem: Problem) -> dict[str, _Factor]:
    gradients = problem.gradients
    found = {name: _Factor(gradients.biased(name)) for name in gradients.plain}
    for first, signals in _signals(problem, "Kronecker factors"):
        factor = found[signals.name]
        if first:  # what enters does not depend on the label
            factor.add_inputs(signals.inputs)
        factor.add_errors(signals.errors)
    return found


def _eigenvalues(problem: Problem, bases: dict[str, Basis]) -> dict[str, Tensor]:
    """{layer: (units, fan_in + 1)}: the curvature along the eigenvectors, mean over images."""
    found: dict[str, Tensor] = {}
    images = 0
    for first, signals in _signals(problem, "curvature"):
        images += len(signals.inputs) if first and signals.name == problem.layers[0].name else 0
        square = bases[signals.name].rotated(signals).square_().sum(0)
        known = found.get(signals.name)
        found[signals.name] = square if known is None else known.add_(square)
    return {name: total / images for name, total in found.items()}


def _eigenvectors(matrix: Tensor | None) -> Tensor:
    if matrix is None:
        raise ModelEditError("the training split has no image: EK-FAC needs some")
    # Eigenvectors are those of any multiple; a mean entry of 1 keeps float32 in range.
    scaled = matrix / (matrix.diagonal().mean() + torch.finfo(matrix.dtype).tiny)
    # In float32 LAPACK can fail on a matrix of low rank: by an error, or by NaN on some processors.
    vectors: Tensor
    with suppress(RuntimeError):
        vectors = torch.linalg.eigh(scaled).eigenvectors
        if bool(vectors.isfinite().all()):
            return vectors
    vectors = torch.linalg.eigh(scaled.double()).eigenvectors.to(matrix.dtype)
    return vectors


def _with_one(inputs: Tensor, bias: bool) -> Tensor:
    """(b, groups, positions, fan_in), and a 1 behind it for the bias."""
    return torch.cat([inputs, inputs.new_ones(*inputs.shape[:-1], 1)], -1) if bias else inputs


def _units(errors: Tensor) -> Tensor:
    """(b, groups, positions, units per group) -> (b, positions, units)"""
    return errors.transpose(1, 2).flatten(2)
