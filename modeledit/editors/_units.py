"""What editors of units share."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import nn

from modeledit.data import Split
from modeledit.editors import Chosen
from modeledit.errors import ModelEditError
from modeledit.runtime import Runtime
from modeledit.types import Change, EditPlan
from modeledit.units import Anatomy, survey


def anatomy_of(
    editor: str, model: nn.Module | None, split: Split | None, runtime: Runtime
) -> tuple[nn.Module, Anatomy]:
    """The network on the runtime's device, a copy, and its anatomy."""
    if model is None or split is None:
        missing = "model" if model is None else "split"
        raise ModelEditError(f"{editor} of units needs the model and a split: no {missing} came")
    work = copy.deepcopy(model).to(runtime.device).eval()
    return work, survey(work, split.example())


def plan_of(
    changes: tuple[Change, ...], left_out: Mapping[str, tuple[int, ...]], chosen: Chosen
) -> EditPlan:
    """The plan, with the units that are really pinned."""
    units = {}
    for layer, indices in chosen.items():
        pinned = sorted(set(indices.tolist()) - set(left_out.get(layer, ())))
        if pinned:
            units[layer] = tuple(pinned)
    return EditPlan(changes, units, left_out)
