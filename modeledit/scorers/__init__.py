"""Scorers: how responsible is each weight or unit for a behaviour? One file each, see `Scorer`."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import modeledit
from modeledit import plugins
from modeledit.data import Split
from modeledit.errors import DataError, ModelEditError
from modeledit.runtime import Runtime
from modeledit.targets import Accuracy, ForgetClass, GroupRecall, Target
from modeledit.types import Granularity, Scores
from modeledit.units import Anatomy, limited, survey


@dataclass(frozen=True)
class Job:
    """What a scorer works on.

    model:    a copy in eval mode on `runtime.device`, the scorer's to perturb and hook.
    original: the caller's parameters by name, to restore the copy from; never written to.
    anatomy:  which layers, units and parameters may be edited (the classifier is left out).
    retain:   images that must not suffer, where they are not the rest of `split`: adversarial
              images all show the target, and the clean ones are kept apart.
    """

    model: nn.Module
    original: Mapping[str, Tensor]
    anatomy: Anatomy
    split: Split
    target: Target
    runtime: Runtime
    retain: Split | None = None


@dataclass(frozen=True)
class Found:
    """A scorer's answer: `values` oriented so that larger = edited first, `raw` as it was.

    header: what editors and the strength search should know: `allocation`, and `steps`, the counts
    worth trying when the values are an order of editing. half_width, pins: as in Scores.
    """

    values: Mapping[str, Tensor]
    raw: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    header: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    half_width: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    pins: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Scorer(ABC):
    """Base of all scorers: a frozen dataclass whose fields are its options, each of them read.

    A subclass supplies `run`. `granularity` is "weight" ({parameter: its shape}) or "filter"
    ({layer: (units,)}), one of `granularities`. `targets`: kinds of target that it can score.
    `sampled`: it goes on for as long as it is told (`Runtime.budget`), and can be continued
    (`Runtime.resume`). `ordered`: its values are an order of editing, with `steps` in the header.
    """

    granularities: ClassVar[tuple[Granularity, ...]] = ("weight", "filter")
    targets: ClassVar[tuple[type[Target], ...]] = (ForgetClass, Accuracy)
    sampled: ClassVar[bool] = False
    ordered: ClassVar[bool] = False
    granularity: Granularity = "weight"

    @abstractmethod
    def run(self, job: Job) -> Found:
        """Score every editable weight or unit of `job.model`."""

    @abstractmethod
    def passes(self, shown: int, others: int, tensors: int) -> int:
        """Forward-equivalent images that scoring takes, at most, for what it may draw from: `shown`
        examples of the target, `others`, and `tensors` parameters."""

    def passes_per_unit(self, shown: int) -> int:  # noqa: ARG002  (for those that count by unit)
        """What comes on top of `passes` for each unit of the network."""
        return 0

    def __call__(
        self,
        model: nn.Module,
        split: Split,
        target: Target,
        runtime: Runtime | None = None,
        layers: Sequence[str] | None = None,
        retain: Split | None = None,
    ) -> Scores:
        """Scores of `model` for `target` on the examples of `split`; the model is not touched.

        layers: names of those to score, each with everything beneath it; None for all.
        retain: images that must not suffer, where they are no part of the split.
        """
        runtime = runtime or Runtime()
        self.check(split, target, runtime)
        work = copy.deepcopy(model).to(runtime.device).eval()
        anatomy = survey(work, split.example())
        if layers is not None:
            anatomy = limited(anatomy, layers)
        original = dict(model.named_parameters())
        found = self.run(Job(work, original, anatomy, split, target, runtime, retain))
        return Scores(
            granularity=self.granularity,
            values=_finite(found.values),
            raw=_finite(found.raw),
            header={**self._header(split, target, runtime), **found.header},
            half_width=_finite(found.half_width),
            pins=_finite(found.pins),
        )

    def steps_along(self) -> int:
        """For attacks: images to show on the way from each clean image to the attacked one."""
        return 1

    def check(self, split: Split, target: Target, runtime: Runtime) -> None:
        """Refuse what cannot be scored for the target, before anything is computed."""
        if self.granularity not in self.granularities:
            allowed = " or ".join(self.granularities)
            raise ModelEditError(f"{self.name} scores by {allowed}, not by {self.granularity!r}")
        if not isinstance(target, self.targets):
            fit = [
                n
                for n in plugins.names("scorers")
                if isinstance(target, plugins.load("scorers", n).targets)
            ]
            raise ModelEditError(
                f"{self.name} cannot score for {target}: use {' or '.join(fit)}, or another target"
            )
        if not self.sampled and (runtime.budget or runtime.resume):
            what = "a budget" if runtime.budget else "resuming"
            raise ModelEditError(f"{what} is for scorers that sample, which {self.name} does not")
        if not target.mask(split.labels).any():
            raise ModelEditError(f"the {split.name} split has no example of {target}")
        if isinstance(target, GroupRecall) and split.groups is None:
            raise DataError(
                f"target {target} needs groups, and the data has none: name their column with "
                "--group-column, or choose another target"
            )

    def _header(self, split: Split, target: Target, runtime: Runtime) -> dict[str, Any]:
        return {
            "scorer": self.name,
            "options": dataclasses.asdict(self),
            "target": str(target),
            "split": split.name,
            "examples": len(split),
            "seed": runtime.seed,
            "passes": round(runtime.meter.images),
            "versions": modeledit.versions(),
        }

    @property
    def name(self) -> str:
        """The name of its file, as the command line spells it."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")


def _finite(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float32 on the CPU, in the given order; what is not finite is refused by name."""
    checked = {}
    for name, tensor in values.items():
        value = tensor.detach().to("cpu", torch.float32).contiguous()
        if not bool(torch.isfinite(value).all()):
            raise ModelEditError(f"the scores of {name} are not finite: is the model sound?")
        checked[name] = value
    return checked
