"""The main jobs, end to end: score -> plan -> apply -> read back -> measure -> gate -> save.

The command line and deployment pipelines call these; each step is also callable by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from modeledit import layer_choice, plugins, targets
from modeledit.checkpoint import identity
from modeledit.contrast import check, contrasted
from modeledit.cost import Clock
from modeledit.data import Data, Split
from modeledit.editors import Editor
from modeledit.errors import ModelEditError
from modeledit.eval.aspects import Aspects
from modeledit.eval.classes import summarise
from modeledit.eval.gates import Limits
from modeledit.eval.predictions import predict
from modeledit.execution import Auto, Execution
from modeledit.judging import Baseline, check_classes
from modeledit.layer_choice import Layers
from modeledit.models import LoadedModel
from modeledit.objectives.forgetting import Forgetting
from modeledit.report import Measurement, Report
from modeledit.result import Result
from modeledit.runtime import Runtime
from modeledit.scorers import Scorer
from modeledit.selection import Strength
from modeledit.targets import AttackSuccess, ForgetClass, GroupRecall, Target
from modeledit.types import EditPlan, Scores
from modeledit.units import survey

Model = LoadedModel | nn.Module
Datasets = Data | tuple[Any, Any, Any]  # or (train, validation, test) data sets
Classes = int | str | Iterable[int | str]
DEFAULT_SCORER, DEFAULT_EDITOR = "stepwise-peps", "zero"
_INSTEAD = {  # verbs that score, edit and judge for the targets that `edit` does not judge
    GroupRecall: "use `modeledit repair`, which scores by itself",
    AttackSuccess: "use `modeledit harden`, which scores by itself",
}


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
        scores = score(baseline.loaded, baseline.data, target, scorer, metered, layers, keep)
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
) -> Scores:
    """How responsible each weight or unit is for the target, on the training split.

    layers: names, or "auto" for the layers through which the target is supported; None for all.
    keep: another behaviour, which the scores weigh against the target (`contrast.contrasted`).
    """
    loaded, data, runtime = as_loaded(model), as_data(data), runtime or Runtime()
    check_classes(loaded, data)
    scorer = as_scorer(scorer)
    check(scorer, target, keep)
    names, limit = None, {}
    if layers is not None:
        chosen = layer_choice.choose(layers, loaded.module, data.train, target, runtime)
        names, limit = chosen.layers, chosen.header()
    scores = scorer(loaded.module, data.train, target, runtime, names)
    if keep is not None:
        spared = scorer(loaded.module, data.train, keep, runtime, names)
        scores = contrasted(scores, spared, target, keep)
    origin = {"model_digest": identity(loaded.base_state()), "data_digest": data.digest()}
    return replace(scores, header={**scores.header, **limit, **origin})


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
    runtime: Runtime | None = None,
    baseline: Baseline | None = None,
) -> Result:
    """Edit by scores made before, for the target they were made for; otherwise like `unlearn`."""
    baseline = baseline or Baseline(as_loaded(model), as_data(data))
    target = _target_of(scores, baseline)
    limits = Limits(max_forget, max_retain_drop)
    clock = Clock(runtime or Runtime())
    clock.made_before("score", int(scores.header.get("passes", 0)))
    if layers is not None:
        with clock.stage("score") as metered:
            scores = _limited(scores, layers, baseline, target, metered)
    objective = Forgetting(limits, Aspects(), target.classes)
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
    target = _target_of(scores, baseline)
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


def _target_of(scores: Scores, baseline: Baseline) -> ForgetClass:
    """What scores made before are for, if they were made of this model and data."""
    numbers = tuple(map(str, range(len(baseline.data.class_names))))  # not names that look like it
    target = targets.parse(str(scores.header.get("target", "")), numbers)
    if scores.header.get("model_digest", baseline.digest) != baseline.digest:
        raise ModelEditError("the scores were made for another model: score this one first")
    if scores.header.get("data_digest") not in (None, baseline.data.digest()):
        raise ModelEditError(
            "the scores were made on other data, or on another cut of it, whose training images "
            f"may be test images here: use the same --data, --limit and --seed "
            f"({scores.header.get('seed')})"
        )
    if not isinstance(target, ForgetClass):
        raise ModelEditError(
            f"edits by a file of scores are judged for class targets; these scores are for {target}"
            f": {_INSTEAD.get(type(target), 'score class:NAME instead')}"
        )
    return target


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
