"""Set the chosen weights to 0, or pin the chosen units to 0."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from modeledit.data import Split
from modeledit.editors import Chosen, Draft, Editor
from modeledit.editors._units import anatomy_of, plan_of
from modeledit.runtime import Runtime
from modeledit.surgery import pins
from modeledit.types import Change, EditPlan, Scores


@dataclass(frozen=True)
class Zero(Editor):
    """Weights become 0. A unit is silenced: 0 after its BatchNorm, if one pins it."""

    def draft(
        self, scores: Scores, model: nn.Module | None, split: Split | None, runtime: Runtime
    ) -> Draft:
        """Weights need neither model nor split; units need both, to find what pins them."""
        if scores.granularity == "weight":
            return lambda chosen: EditPlan(_changes(scores, chosen))
        network, anatomy = anatomy_of(self.name, model, split, runtime)
        return lambda chosen: plan_of(*pins(network, anatomy, chosen, "zero"), chosen)


def _changes(scores: Scores, chosen: Chosen) -> tuple[Change, ...]:
    return tuple(
        _change(name, scores.values[name], indices) for name, indices in sorted(chosen.items())
    )


def _change(name: str, values: Tensor, indices: Tensor) -> Change:
    return Change(name, tuple(values.shape), indices, torch.zeros(len(indices)), "set")
