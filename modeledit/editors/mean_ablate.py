"""Pin the chosen units to their mean output on a calibration split, or to a given value."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from modeledit.data import Split
from modeledit.editors import Chosen, Draft, Editor
from modeledit.editors._units import anatomy_of, plan_of
from modeledit.errors import ModelEditError
from modeledit.runtime import Runtime
from modeledit.scorers._options import whole
from modeledit.surgery import pins, record_means
from modeledit.types import EditPlan, Granularity, Scores
from modeledit.units import Anatomy


@dataclass(frozen=True)
class MeanAblate(Editor):
    """The unit's own output becomes a constant, so it carries no information about the input.

    value: None = the constant that the scorer held the unit at, if the scores bring it, so that the
    edited network is the one that was scored; else the unit's mean over the split. A number =
    that, before a BatchNorm that follows.
    calibration: examples of the split that means are taken over, drawn by class.
    Units that can only be pinned to 0 are left out and listed in the plan; with an explicit value
    they are an error.
    """

    granularities: ClassVar[tuple[Granularity, ...]] = ("filter",)
    value: float | None = None
    calibration: int = 4096

    def __post_init__(self) -> None:
        number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if self.value is not None and not (number and math.isfinite(self.value)):
            raise ModelEditError(f"value={self.value!r} is not allowed: give a number, or leave it")
        whole("calibration", self.calibration, 1)

    def draft(
        self, scores: Scores, model: nn.Module | None, split: Split | None, runtime: Runtime
    ) -> Draft:
        """Records the means of the scored layers that the scores do not bring, in one pass."""
        network, anatomy = anatomy_of(self.name, model, split, runtime)
        brought = dict(scores.pins) if self.value is None else {}
        missing = [name for name in scores.values if name not in brought]
        means = brought | self._means(network, anatomy, missing, split, runtime)

        def plan(chosen: Chosen) -> EditPlan:
            changes, left_out = pins(network, anatomy, chosen, means)
            if left_out and self.value is not None:
                layer, units = next(iter(left_out.items()))
                raise ModelEditError(
                    f"{layer}:{units[0]} has no bias and no BatchNorm of its own, so it can only "
                    f"be pinned to 0, not to {self.value}: use the zero editor, or leave value out"
                )
            return plan_of(changes, left_out, chosen)

        return plan

    def _means(
        self,
        model: nn.Module,
        anatomy: Anatomy,
        layers: list[str],
        split: Split | None,
        runtime: Runtime,
    ) -> dict[str, Tensor]:
        if not layers:
            return {}
        if self.value is None and split is not None:
            sample = split.sample(self.calibration, runtime.seed)
            return record_means(model, sample, layers, runtime)
        sizes = {n: (layer.units, layer.width) for n, layer in anatomy.layers.items()}
        return {name: torch.full(sizes[name], float(self.value or 0)) for name in layers}
