"""Zero the chosen weights or units, then retrain their layers on retained training images."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeledit import targets
from modeledit.data import Batch, Split
from modeledit.editors import Chosen, Draft, Editor
from modeledit.editors.zero import Zero
from modeledit.errors import ModelEditError
from modeledit.runtime import Runtime
from modeledit.surgery import apply
from modeledit.targets import ForgetClass
from modeledit.types import Change, EditPlan, Scores
from modeledit.units import Anatomy, survey

_DRAWS = 0xF17E  # keeps the order of the images apart from other draws of the same seed


@dataclass(frozen=True)
class FinetuneLayers(Editor):
    """What `zero` does, then `steps` of training of the layers it touched; the rest stays frozen.

    The zeroed entries stay at 0. Trained are weight and bias of the layers that hold a chosen
    entry, on training images that do not show the target (on all, for targets other than classes),
    with cross-entropy and SGD with momentum 0.9. The network is in eval mode throughout: BatchNorm
    keeps its running statistics, dropout is off. The plan holds the final values, so it changes
    more weights than the strength names. At strength 0 nothing is trained.
    steps: batches of `images` images; rate: learning rate.
    """

    trains: ClassVar[bool] = True
    steps: int = 50
    images: int = 64
    rate: float = 0.01

    def __post_init__(self) -> None:
        for option in ("steps", "images"):
            value = getattr(self, option)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ModelEditError(f"{option}={value!r} is not allowed: give a whole number >= 1")
        number = isinstance(self.rate, int | float) and not isinstance(self.rate, bool)
        if not number or not 0 < self.rate < math.inf:
            raise ModelEditError(f"rate={self.rate!r} is not allowed: give a number above 0")

    def passes(self) -> int:
        """See the base."""
        return 3 * self.steps * self.images

    def draft(
        self, scores: Scores, model: nn.Module | None, split: Split | None, runtime: Runtime
    ) -> Draft:
        """Each plan is a training of its own, from the same start on the same images."""
        if model is None or split is None:
            missing = "model" if model is None else "split"
            raise ModelEditError(f"{self.name} needs the model and a split: no {missing} came")
        network = copy.deepcopy(model).to(runtime.device).eval()
        anatomy = survey(network, split.example())
        kept = _retained(scores, split, anatomy)
        zero = Zero(self.order, self.allocation).draft(scores, network, split, runtime)

        def plan(chosen: Chosen) -> EditPlan:
            if not chosen:
                return EditPlan(())
            start = zero(chosen)
            trained = apply(network, start)
            names = _trained(scores, anatomy, chosen)
            self._train(trained, names, _held(start, trained), kept, runtime)
            return replace(
                start,
                changes=_changes(start, network, trained, names),
                header={"training": self._told(trained, names, kept)},
            )

        return plan

    def _train(
        self,
        model: nn.Module,
        names: list[str],
        held: Mapping[str, Tensor],
        split: Split,
        runtime: Runtime,
    ) -> None:
        parameters = dict(model.requires_grad_(False).named_parameters())
        free = {name: parameters[name].requires_grad_() for name in names}
        optimiser = torch.optim.SGD(free.values(), lr=self.rate, momentum=0.9)
        with torch.enable_grad(), runtime.progress.stage("retraining", self.steps) as tick:
            for batch in self._batches(split, runtime):
                loss = F.cross_entropy(model(batch.images), batch.labels)
                found = torch.autograd.grad(loss, list(free.values()), materialize_grads=True,
                                            allow_unused=True)  # fmt: skip
                for (name, parameter), gradient in zip(free.items(), found, strict=True):
                    mask = held.get(name)
                    parameter.grad = gradient if mask is None else gradient.masked_fill(mask, 0)
                optimiser.step()
                runtime.meter.forward(len(batch.labels))
                runtime.meter.backward(len(batch.labels))
                tick(1)
        if not all(bool(parameter.isfinite().all()) for parameter in free.values()):
            raise ModelEditError(f"retraining diverged: give a lower rate than {self.rate}")

    def _batches(self, split: Split, runtime: Runtime) -> Iterator[Batch]:
        """`steps` batches, from as many seeded orders of the images as it takes."""
        runtime = replace(runtime, batch_size=self.images)
        left = self.steps
        for epoch in range(self.steps):
            for batch in split.batches(runtime, shuffle=True, salt=_DRAWS + epoch):
                if not left:
                    return
                left -= 1
                yield batch

    def _told(self, model: nn.Module, names: list[str], split: Split) -> dict[str, Any]:
        """What the report says of the training: JSON values."""
        return {
            "parameters": names,
            "weights": sum(model.get_parameter(name).numel() for name in names),
            "steps": self.steps,
            "images": len(split),
            "batch": min(self.images, len(split)),
        }


def _retained(scores: Scores, split: Split, anatomy: Anatomy) -> Split:
    """The images of `split` to train on; all of them where the scores name no class."""
    target = str(scores.header.get("target", ""))
    if not target.startswith("class:"):
        return split
    forget = targets.parse(target, [str(index) for index in range(anatomy.num_classes)])
    if not isinstance(forget, ForgetClass):
        return split
    others = split.where(~forget.mask(split.labels))
    if not len(others):
        raise ModelEditError(
            f"the {split.name} split has only images of {forget}, so none to retrain on: use zero"
        )
    return others


def _trained(scores: Scores, anatomy: Anatomy, chosen: Chosen) -> list[str]:
    """Parameters of the modules that hold a chosen entry, in the network's order."""
    holding = set(chosen)
    if scores.granularity == "filter":
        holding = {anatomy.layers[name].weight[0] for name in chosen}
    modules = {name.rpartition(".")[0] for name in holding}
    return [name for name in anatomy.parameters if name.rpartition(".")[0] in modules]


def _held(start: EditPlan, model: nn.Module) -> dict[str, Tensor]:
    """{tensor: True where the plan put a value, which training leaves alone}"""
    parameters = dict(model.named_parameters())
    found: dict[str, Tensor] = {}
    for change in start.changes:
        if change.tensor in parameters:
            like = parameters[change.tensor]
            mask = found.setdefault(change.tensor, torch.zeros_like(like, dtype=torch.bool))
            at = change.indices.to(like.device)
            place = (at,) if change.scope == "row" else torch.unravel_index(at, like.shape)
            mask[place] = True
    return found


def _changes(
    start: EditPlan, before: nn.Module, after: nn.Module, names: list[str]
) -> tuple[Change, ...]:
    """Final values of the trained tensors, and the start's changes of all others."""
    changes = [change for change in start.changes if change.tensor not in names]
    for name in names:
        old, new = (m.get_parameter(name).detach().reshape(-1).cpu() for m in (before, after))
        at = (old != new).nonzero().flatten()
        if len(at):
            shape = tuple(before.get_parameter(name).shape)
            changes.append(Change(name, shape, at, new[at].float(), "set"))
    return tuple(sorted(changes, key=lambda c: (c.tensor, c.scope, c.action)))
