"""Size of the weights, or norm of each filter, whatever the target: large ones first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from modeledit.scorers import Found, Job, Scorer
from modeledit.scorers._options import choice
from modeledit.scorers._parts import Filters, Tensors, names

Norm = Literal[1, 2]


@dataclass(frozen=True)
class Magnitude(Scorer):
    """|w|, or the L1 or L2 `norm` of a filter's weights: >= 0.

    The largest score is edited first, which destroys; magnitude pruning in the usual sense is the
    editor's order=lowest. For single weights both norms are |w|. tensors: weights or all.
    """

    norm: Norm = 2
    tensors: Tensors = "weights"

    def __post_init__(self) -> None:
        choice("norm", self.norm, Norm)
        choice("tensors", self.tensors, Tensors)

    def passes(self, shown: int, others: int, tensors: int) -> int:
        """See the base."""
        del shown, others, tensors
        return 0

    def run(self, job: Job) -> Found:
        """Needs no data."""
        scored = names(job.anatomy, self.granularity, self.tensors)
        weights = {name: job.original[name].detach() for name in scored}
        if self.granularity == "weight":
            return Found({name: weight.abs() for name, weight in weights.items()})
        filters = Filters(job.anatomy)
        norms = {
            name: torch.linalg.vector_norm(filters(name, weight), ord=self.norm, dim=1)
            for name, weight in weights.items()
        }
        return Found(filters.layers(norms))
