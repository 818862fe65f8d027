"""Scores of a network for one behaviour, on the training images that show it."""

from __future__ import annotations

from dataclasses import replace

from modeledit import layer_choice
from modeledit.contrast import check, contrasted
from modeledit.judging import Baseline
from modeledit.layer_choice import Layers
from modeledit.objectives import Objective
from modeledit.runtime import Runtime
from modeledit.scorers import Scorer
from modeledit.targets import Target
from modeledit.types import Scores

KEPT = ".keep"  # ends the name of what the scores of a kept target resume from


def scored(
    baseline: Baseline,
    target: Target,
    scorer: Scorer,
    runtime: Runtime,
    *,
    objective: Objective | None = None,
    layers: Layers | None = None,
    keep: Target | None = None,
) -> Scores:
    """The scores, with the digests of what they were made on.

    objective: says which images show the target and which must not suffer; without one it is all of
    the training split. layers: names, or "auto" for those through which the target is supported.
    keep: another behaviour, on the clean training images, which the scores weigh against it.
    """
    check(scorer, target, keep)
    if keep is not None:
        scorer.check(baseline.data.train, keep, apart(runtime))
    module, split, retain = baseline.loaded.module, baseline.data.train, None
    if objective is not None:
        split, retain = objective.scored(baseline, runtime, scorer.steps_along())
    names, said = None, objective.header() if objective is not None else {}
    if layers is not None:
        chosen = layer_choice.choose(layers, module, split, target, runtime)
        names, said = chosen.layers, {**said, **chosen.header()}
    found = scorer(module, split, target, runtime, names, retain)
    if keep is not None:
        spared = scorer(module, baseline.data.train, keep, apart(runtime), names)
        found = contrasted(found, spared, target, keep)
    return baseline.stamped(replace(found, header={**found.header, **said}))


def apart(runtime: Runtime) -> Runtime:
    """A runtime whose file to resume from is another one: of a second run beside the first."""
    if runtime.resume is None:
        return runtime
    return replace(runtime, resume=runtime.resume.with_name(runtime.resume.name + KEPT))
