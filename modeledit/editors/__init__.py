"""Editors: from scores and a strength to a plan. One file each, see `Editor`."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from modeledit.data import Split
from modeledit.errors import ModelEditError
from modeledit.runtime import Runtime
from modeledit.selection import Allocation, Order, Strength, how_many, select
from modeledit.types import EditPlan, Granularity, Scores

Planner = Callable[[Strength], EditPlan]
Chosen = Mapping[str, Tensor]  # {tensor or layer: ascending indices}
Draft = Callable[[Chosen], EditPlan]


@dataclass(frozen=True)
class Editor(ABC):
    """Base of all editors: a frozen dataclass whose fields are its options, each of them read.

    A subclass supplies `draft`. `order` "highest" edits the most responsible first. `allocation`
    spreads a strength over tensors ("per-tensor": the same share of each; "global": one ranking
    over the whole net; "auto": what the scores ask for, else per-tensor for weights and global
    for units).
    """

    granularities: ClassVar[tuple[Granularity, ...]] = ("weight", "filter")
    trains: ClassVar[bool] = False  # whether a plan may change more than the chosen entries
    order: Order = "highest"
    allocation: Literal["auto", "per-tensor", "global"] = "auto"

    @abstractmethod
    def draft(
        self, scores: Scores, model: nn.Module | None, split: Split | None, runtime: Runtime
    ) -> Draft:
        """Do once what does not depend on the strength; return how chosen entries become a plan.

        The base writes the plan's header, beside what the draft itself puts there.
        """

    def passes(self) -> int:
        """Forward-equivalent images that each plan takes."""
        return 0

    def check(self, granularity: Granularity) -> None:
        """Refuse scores of a kind that this editor cannot use."""
        if granularity not in self.granularities:
            allowed = " or ".join(self.granularities)
            raise ModelEditError(
                f"{self.name} edits by {allowed}, but the scores are per {granularity}: "
                "use another editor, or another scorer or granularity"
            )

    def prepare(
        self,
        scores: Scores,
        model: nn.Module | None = None,
        split: Split | None = None,
        runtime: Runtime | None = None,
    ) -> Planner:
        """A function from strength to plan; pins are measured once, on `split`."""
        runtime = runtime or Runtime()
        self.check(scores.granularity)
        draft = self.draft(scores, model, split, runtime)
        header = {
            "editor": self.name,
            "options": dataclasses.asdict(self),
            "scores": dict(scores.header),
        }

        def plan(strength: Strength) -> EditPlan:
            self._check_order(scores, strength)
            chosen = select(
                scores.values,
                strength,
                order=self.order,
                allocation=self._allocation(scores),
                generator=runtime.generator(),
            )
            made = draft(chosen)
            said = {**made.header, **header, "strength": strength}
            return dataclasses.replace(made, header=said)

        return plan

    def __call__(
        self,
        scores: Scores,
        strength: Strength,
        model: nn.Module | None = None,
        split: Split | None = None,
        runtime: Runtime | None = None,
    ) -> EditPlan:
        """The plan at one strength. Edits of units need the model; mean pins need a split too."""
        return self.prepare(scores, model, split, runtime)(strength)

    def _check_order(self, scores: Scores, strength: Strength) -> None:
        """Scores that are an order of editing end somewhere: beyond it nothing was scored."""
        steps = scores.header.get("steps")
        if steps is None:
            return
        count, most = how_many(scores.count, strength), steps[-1] if steps else 0
        if self.order != "highest" or self._allocation(scores) != "global" or count > most:
            what = "weights" if scores.granularity == "weight" else "units"
            raise ModelEditError(
                f"these scores are the order of editing {most:,} {what}: use a strength of "
                "at most that many, order highest and allocation global, or another scorer"
            )

    def _allocation(self, scores: Scores) -> Allocation:
        if self.allocation != "auto":
            return self.allocation
        asked: Any = scores.header.get("allocation")
        if asked in ("per-tensor", "global"):
            return asked  # type: ignore[no-any-return]
        return "per-tensor" if scores.granularity == "weight" else "global"

    @property
    def name(self) -> str:
        """The name of its file, as the command line spells it."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")
