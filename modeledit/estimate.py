"""What a run would take, before it is started: units, images, passes, seconds and memory."""

from __future__ import annotations

import copy
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from modeledit import search
from modeledit.contrast import check
from modeledit.cost import peak_memory_mb
from modeledit.data import Data
from modeledit.editors import Editor
from modeledit.eval.aspects import Aspects, required
from modeledit.eval.masking import CHECKED
from modeledit.judging import CACHE
from modeledit.layer_choice import Layers, most_passes
from modeledit.models import LoadedModel
from modeledit.runtime import Runtime
from modeledit.scorers import Scorer
from modeledit.selection import Strength
from modeledit.targets import AttackSuccess, Target
from modeledit.units import survey


@dataclass(frozen=True)
class Estimate:
    """Upper bounds, the seconds from one timed batch.

    weights, units: editable ones. examples: images by split. passes: forward-equivalent images by
    stage. by_layer: (tensor, entries, whether it may be edited).
    """

    weights: int
    units: int
    examples: Mapping[str, int]
    passes: Mapping[str, int]
    seconds: float
    memory_mb: float
    by_layer: tuple[tuple[str, int, bool], ...]


def estimated(
    loaded: LoadedModel,
    data: Data,
    target: Target,
    scorers: Collection[Scorer],
    strength: Strength | str,
    runtime: Runtime,
    editor: Editor | None = None,
    layers: Layers | None = None,
    keep: Target | None = None,
    aspects: Aspects | None = None,
) -> Estimate:
    """Run one batch forward and backward, and count the rest.

    scorers: all that are tried, each with its own search; none where scores were made before.
    keep: a behaviour scored as well. aspects: an attack that is measured as well.
    """
    for scorer in scorers:
        check(scorer, target, keep)
    anatomy = survey(loaded.module, data.train.example())
    trials = search.most_trials() if strength == "auto" else 0
    searches = len(scorers) or 1
    units = sum(layer.units for layer in anatomy.layers.values())
    aspects = aspects or Aspects()
    wanted = [target] if keep is None else [target, keep]
    behaviours = [(*_known(one, data, aspects), len(anatomy.parameters)) for one in wanted]
    passes = {
        "score": most_passes(layers, *behaviours[0])
        + sum(
            scorer.passes(shown * _ways(scorer, one), others, tensors)
            + units * scorer.passes_per_unit(shown)
            for scorer in scorers
            for one, (shown, others, tensors) in zip(wanted, behaviours, strict=True)
        ),
        "search": searches * (trials + 1) * len(data.validation) if trials else 0,
        "edit": searches * (trials + 1) * editor.passes() if editor is not None else 0,
        "evaluate": 2 * len(data.test),
    }
    if aspects.attack is not None:
        attacked = _attacked(aspects, data, searches * (trials + 1) if trials else 0)
        if scorers and isinstance(target, AttackSuccess):
            attacked["score"] = min(aspects.images, len(data.train)) * (_each(aspects) + 2)
        passes = {stage: count + attacked.get(stage, 0) for stage, count in passes.items()}
    parameters = dict(loaded.module.named_parameters())
    return Estimate(
        weights=sum(parameters[name].numel() for name in anatomy.parameters),
        units=units,
        examples={s.name: len(s) for s in (data.train, data.validation, data.test)},
        passes=passes,
        seconds=sum(passes.values()) * _seconds_per_pass(loaded, data, runtime),
        memory_mb=peak_memory_mb() + CACHE / 1e6,
        by_layer=tuple(
            (name, p.numel(), name in anatomy.parameters) for name, p in parameters.items()
        ),
    )


def _ways(scorer: Scorer, target: Target) -> int:
    """How many images are shown of each that shows the target."""
    return scorer.steps_along() if isinstance(target, AttackSuccess) else 1


def _each(aspects: Aspects) -> int:
    """For one image: to make another of it, what is made of the clean one, and of its label."""
    return required(aspects.attack).passes() + 2


def _attacked(aspects: Aspects, data: Data, shown: int) -> dict[str, int]:
    """What measuring an attack adds by stage. shown: how often the search replays its images."""
    each = _each(aspects)
    few = {s.name: min(aspects.images, len(s)) for s in (data.validation, data.test)}
    # Clean and changed ones, before and after: replayed, made anew and of another network.
    rows = 2 if aspects.rival is None else 3
    made = 2 if aspects.rival is None else 4
    checked = min(CHECKED, few["test"]) * (aspects.queries + 16) if aspects.queries else 0
    return {
        "search": few["validation"] * (each + shown) if shown else 0,
        "evaluate": few["test"] * (made * each + 4 * rows) + 2 * checked,
    }


def _known(target: Target, data: Data, aspects: Aspects) -> tuple[int, int]:
    """Training examples that show a behaviour, and the others; all of them beside attacked ones."""
    if isinstance(target, AttackSuccess):
        return min(aspects.images, len(data.train)), len(data.train)
    shown = int(target.mask(data.train.labels).sum())
    return shown, len(data.train) - shown


def _seconds_per_pass(loaded: LoadedModel, data: Data, runtime: Runtime) -> float:
    """Of one image through the network, one way; the second of two batches is timed."""
    work = copy.deepcopy(loaded.module).to(runtime.device).eval()
    batch = next(data.train.batches(runtime))
    for _ in range(2):
        start = time.perf_counter()
        loss = functional.cross_entropy(work(batch.images), batch.labels)
        torch.autograd.grad(loss, list(work.parameters()), allow_unused=True)
        seconds = time.perf_counter() - start
    return seconds / (3 * len(batch.labels))
