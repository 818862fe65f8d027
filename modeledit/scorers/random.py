"""Seeded uniform noise: the control every other scorer has to beat."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from modeledit.scorers import Found, Job, Scorer
from modeledit.scorers._options import choice
from modeledit.scorers._parts import Tensors, names

_SALT = 211


@dataclass(frozen=True)
class Random(Scorer):
    """Uniform in [0, 1); depends on the seed alone. tensors: weights (matrices) or all."""

    tensors: Tensors = "weights"

    def __post_init__(self) -> None:
        choice("tensors", self.tensors, Tensors)

    def passes(self, shown: int, others: int, tensors: int) -> int:
        """See the base."""
        del shown, others, tensors
        return 0

    def run(self, job: Job) -> Found:
        """One draw per weight or unit."""
        anatomy = job.anatomy
        if self.granularity == "filter":
            shapes = {name: torch.Size([layer.units]) for name, layer in anatomy.layers.items()}
        else:
            scored = names(anatomy, self.granularity, self.tensors)
            shapes = {name: job.original[name].shape for name in scored}
        generator = job.runtime.generator(_SALT)
        return Found({n: torch.rand(shape, generator=generator) for n, shape in shapes.items()})
