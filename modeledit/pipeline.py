"""The main jobs, end to end: score -> plan -> apply -> read back -> measure -> gate -> save.

The command line and deployment pipelines call these; each step is also callable by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast

from torch import nn

from modeledit import layer_choice, plugins, reuse, targets
from modeledit.cost import Clock
from modeledit.data import Data, Split
from modeledit.editors import Editor
from modeledit.eval.aspects import Aspects
from modeledit.eval.classes import summarise
from modeledit.eval.gates import Limits
from modeledit.eval.predictions import predict
from modeledit.execution import Auto, Execution
from modeledit.judging import Baseline
from modeledit.layer_choice import Layers
from modeledit.models import LoadedModel
from modeledit.objectives.forgetting import Forgetting
from modeledit.objectives.hardening import Hardening
from modeledit.report import Measurement, Report
from modeledit.result import Result
from modeledit.runtime import Runtime
from modeledit.scorers import Scorer
from modeledit.scoring import scored
from modeledit.selection import Strength
from modeledit.targets import AttackSuccess, ForgetClass, Target
from modeledit.types import EditPlan, Scores
from modeledit.units import survey

Model = LoadedModel | nn.Module
Datasets = Data | tuple[Any, Any, Any]  # or (train, validation, test) data sets
Classes = int | str | Iterable[int | str]
DEFAULT_SCORER, DEFAULT_EDITOR = "stepwise-peps", "zero"


def unlearn(
    model: Model,
    data: Datasets,
    forget: Classes,
    *,
    scorer: Scorer | str = DEFAULT_SCORER,
    editor: Editor | str = DEFAULT_EDITOR,
    strength: Strength | Auto = "auto",
    layers: Layers | None = None,
    keep: Target | None = None,
    max_forget: float = 0.01,
    max_retain_drop: float = 0.01,
    aspects: Aspects | None = None,
    limits: Limits | None = None,
    runtime: Runtime | None = None,
    baseline: Baseline | None = None,
    on_scores: Callable[[Scores], None] | None = None,
) -> Result:
    """Make a classifier forget classes, by index or name, and judge the outcome on the test split.

    Scores come from `data.train`, the strength from `data.validation`; no fine-tuning. The gates:
    recall left of the forgotten class <= max_forget and accuracy lost on all other classes
    <= max_retain_drop, both in 0..1. keep: another behaviour, which scores of units weigh against
    the class. aspects: groups and an attack to measure as well, and further `limits` to gate them
    by. `baseline` (of the same model and data) spares measuring the
    unedited network again for every one of several edits; `on_scores` is handed the scores as soon
    as they are there, to keep them whatever happens next.
    """
    baseline = baseline or Baseline(as_loaded(model), as_data(data))
    target = forget_target(forget, baseline.data)
    limits = replace(limits or Limits(), max_forget=max_forget, max_retain_drop=max_retain_drop)
    objective = Forgetting(limits, aspects or Aspects(), target.classes)
    scorer, editor = as_scorer(scorer), as_editor(editor)
    editor.check(scorer.granularity)
    clock = Clock(runtime or Runtime())
    with clock.stage("score") as metered:
        scores = scored(baseline, target, scorer, metered, layers=layers, keep=keep)
    if on_scores is not None:
        on_scores(scores)
    return Execution("unlearn", baseline, objective, editor, strength, clock).run(scores)


def score(
    model: Model,
    data: Datasets,
    target: Target,
    scorer: Scorer | str = DEFAULT_SCORER,
    runtime: Runtime | None = None,
    layers: Layers | None = None,
    keep: Target | None = None,
    aspects: Aspects | None = None,
) -> Scores:
    """How responsible each weight or unit is for the target, on the training split.

    layers: names, or "auto" for the layers through which the target is supported; None for all.
    keep: another behaviour, which the scores weigh against the target (`contrast.contrasted`).
    aspects: of an attack target the attack, and how many images it is made on.
    """
    baseline = Baseline(as_loaded(model), as_data(data))
    objective = None
    if isinstance(target, AttackSuccess):
        objective = Hardening(Limits(), aspects or Aspects())
    return scored(
        baseline,
        target,
        as_scorer(scorer),
        runtime or Runtime(),
        objective=objective,
        layers=layers,
        keep=keep,
    )


def edit(
    model: Model,
    data: Datasets,
    scores: Scores,
    *,
    editor: Editor | str = DEFAULT_EDITOR,
    strength: Strength | Auto = "auto",
    layers: Layers | None = None,
    max_forget: float = 0.01,
    max_retain_drop: float = 0.01,
    aspects: Aspects | None = None,
    limits: Limits | None = None,
    runtime: Runtime | None = None,
    baseline: Baseline | None = None,
) -> Result:
    """Edit by scores made before, for the target they were made for; otherwise like `unlearn`."""
    baseline = baseline or Baseline(as_loaded(model), as_data(data))
    target = cast(ForgetClass, reuse.target_of(scores, baseline, "edit"))
    limits = replace(limits or Limits(), max_forget=max_forget, max_retain_drop=max_retain_drop)
    clock = Clock(runtime or Runtime())
    clock.made_before("score", int(scores.header.get("passes", 0)))
    if layers is not None:
        with clock.stage("score") as metered:
            scores = _limited(scores, layers, baseline, target, metered)
    objective = Forgetting(limits, aspects or Aspects(), target.classes)
    return Execution("edit", baseline, objective, as_editor(editor), strength, clock).run(scores)


def planned(
    model: Model,
    data: Datasets,
    scores: Scores,
    strength: Strength,
    *,
    editor: Editor | str = DEFAULT_EDITOR,
    layers: Layers | None = None,
    runtime: Runtime | None = None,
) -> EditPlan:
    """What `edit` would change at this strength; nothing is measured or written."""
    baseline, runtime = Baseline(as_loaded(model), as_data(data)), runtime or Runtime()
    target = cast(ForgetClass, reuse.target_of(scores, baseline, "edit"))
    if layers is not None:
        scores = _limited(scores, layers, baseline, target, runtime)
    return as_editor(editor)(scores, strength, baseline.loaded.module, baseline.data.train, runtime)


def evaluate(
    model: Model,
    data: Datasets,
    target: Target | None = None,
    runtime: Runtime | None = None,
    aspects: Aspects | None = None,
) -> Report:
    """Measure a model on the test split, groups and attacks where `aspects` ask for them; nothing
    is edited or written."""
    baseline = Baseline(as_loaded(model), as_data(data))
    return baseline.report(target, Clock(runtime or Runtime()), aspects)


def measure(
    model: nn.Module,
    split: Split,
    target: Target | None,
    class_names: tuple[str, ...],
    runtime: Runtime | None = None,
) -> Measurement:
    """Metrics by class and by slice of one network, where it is, on one split."""
    answers = predict(model, split, runtime or Runtime(), f"measuring {split.name}")
    return summarise(answers, target, class_names)


def forget_target(forget: Classes, data: Data) -> ForgetClass:
    """The classes to forget: each has examples in every split, and something is left to retain."""
    target = ForgetClass(forget_classes(forget, data))
    Forgetting(Limits(), Aspects(), target.classes).check(data)
    return target


def forget_classes(forget: Classes, data: Data) -> tuple[int, ...]:
    """Their indices, from one or several given by index or name."""
    given = (
        list(forget) if isinstance(forget, Iterable) and not isinstance(forget, str) else [forget]
    )
    return tuple(targets.class_index(c, data.class_names) for c in given)


def _limited(
    scores: Scores, layers: Layers, baseline: Baseline, target: Target, runtime: Runtime
) -> Scores:
    """Scores of `layer-influence` bring the ranking that "auto" needs."""
    model, split = baseline.loaded.module, baseline.data.train
    if layers == "auto" and "layers" in scores.header:
        limit = layer_choice.by_influence(scores.header["layers"])
    else:
        limit = layer_choice.choose(layers, model, split, target, runtime)
    return layer_choice.restricted(scores, limit, survey(model, split.example()))


def as_loaded(model: Model) -> LoadedModel:
    return model if isinstance(model, LoadedModel) else LoadedModel.of(model)


def as_scorer(scorer: Scorer | str) -> Scorer:
    return plugins.create("scorers", scorer) if isinstance(scorer, str) else scorer


def as_editor(editor: Editor | str) -> Editor:
    return plugins.create("editors", editor) if isinstance(editor, str) else editor


def as_data(data: Datasets) -> Data:
    return data if isinstance(data, Data) else Data.of(*data)
