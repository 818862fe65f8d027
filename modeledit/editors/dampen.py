"""Scale the chosen weights down, the more the higher their score (SSD's rule)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from modeledit.data import Split
from modeledit.editors import Chosen, Draft, Editor
from modeledit.errors import ModelEditError
from modeledit.runtime import Runtime
from modeledit.types import Change, EditPlan, Granularity, Scores


@dataclass(frozen=True)
class Dampen(Editor):
    """Weight times min(1, dampening * cutoff / score), cutoff = the lowest selected score > 0.

    Selected weights whose score is not positive are left alone. With the scores of `ssd` this is
    its rule with alpha = cutoff and lambda = dampening * alpha (Foster et al. 2024, eq. 5 and 6;
    alpha 10, lambda 1 is dampening 0.1). There is one cutoff, or one per tensor where the
    allocation is per tensor.
    """

    granularities: ClassVar[tuple[Granularity, ...]] = ("weight",)
    dampening: float = 0.1

    def __post_init__(self) -> None:
        number = isinstance(self.dampening, int | float) and not isinstance(self.dampening, bool)
        if not number or not 0 <= self.dampening <= 1:
            raise ModelEditError(f"dampening={self.dampening!r} is not allowed: give 0 to 1")
        if self.order != "highest":
            raise ModelEditError(
                f"order={self.order!r} does not fit dampen, which scales high scores down: "
                "use highest"
            )

    def draft(
        self, scores: Scores, model: nn.Module | None, split: Split | None, runtime: Runtime
    ) -> Draft:
        """Needs the scores only."""
        del model, split, runtime
        together = self._allocation(scores) == "global"

        def plan(chosen: Chosen) -> EditPlan:
            positive = _positive(scores, chosen)
            lowest = {name: float(values.min()) for name, (_, values) in positive.items()}
            everywhere = min(lowest.values(), default=0.0)
            return EditPlan(
                tuple(
                    self._change(name, scores.values[name], *positive[name], cutoff)
                    for name in sorted(positive)
                    for cutoff in [everywhere if together else lowest[name]]
                )
            )

        return plan

    def _change(
        self, name: str, scores: Tensor, indices: Tensor, values: Tensor, cutoff: float
    ) -> Change:
        factor = (self.dampening * cutoff / values.double()).clamp_max(1.0).float()
        return Change(name, tuple(scores.shape), indices, factor, "scale")


def _positive(scores: Scores, chosen: Chosen) -> dict[str, tuple[Tensor, Tensor]]:
    """{tensor: (indices, their scores)} of the chosen entries with a score > 0."""
    found = {}
    for name, indices in chosen.items():
        values = scores.values[name].flatten()[indices]
        above = values > 0
        if bool(above.any()):
            found[name] = (indices[above], values[above])
    return found
