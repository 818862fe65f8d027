"""How strongly each filter answers to the target's examples ("most active")."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from modeledit.scorers import Found, Job, Scorer
from modeledit.scorers._options import choice, whole
from modeledit.scorers._parts import inputs
from modeledit.surgery import per_unit, tap
from modeledit.types import Granularity

Norm = Literal[1, 2]


@dataclass(frozen=True)
class ResponseNorm(Scorer):
    """Mean over examples of the L1 or L2 `norm` of a unit's own output: >= 0.

    The norm runs over positions (and a head's channels) and is divided by their number (L1) or its
    root (L2), so that layers of different resolution compare. Examples: `inputs` of the target's.
    """

    granularities: ClassVar[tuple[Granularity, ...]] = ("filter",)
    granularity: Granularity = "filter"
    norm: Norm = 2
    inputs: int = 128

    def __post_init__(self) -> None:
        choice("norm", self.norm, Norm)
        whole("inputs", self.inputs, 1)

    def passes(self, shown: int, others: int, tensors: int) -> int:
        """See the base."""
        del others, tensors
        return min(self.inputs, shown)

    def run(self, job: Job) -> Found:
        """One forward pass per example."""
        layers = job.anatomy.layers
        sums = {name: torch.zeros(layer.units) for name, layer in layers.items()}
        batches = inputs(job, job.target.mask(job.split.labels), self.inputs)
        with torch.no_grad(), tap(job.model, list(layers)) as outputs:
            for batch in batches:
                job.model(batch.images)
                job.runtime.meter.forward(len(batch.labels))
                for name, found in outputs.items():
                    calls = torch.cat([per_unit(job.model, name, o) for o in found], dim=2)
                    sums[name] += self._norm(calls).sum(0).cpu()
                    found.clear()
        count = sum(len(batch.labels) for batch in batches)
        return Found({name: total / count for name, total in sums.items()})

    def _norm(self, values: Tensor) -> Tensor:
        """(B, units, n) -> (B, units), of all calls of a shared layer together."""
        scale: float = values.shape[2] ** (1.0 / self.norm)
        norms: Tensor = torch.linalg.vector_norm(values, ord=self.norm, dim=2)
        return norms / scale
