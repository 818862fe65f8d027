"""Judging an edit: the network before, the network read back from its file, and the report."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn
from torch.utils.data import TensorDataset

import modeledit
from modeledit.attacks import Attack
from modeledit.checkpoint import Staging, identity, read_state
from modeledit.cost import Clock
from modeledit.data import Data, Split
from modeledit.editors import Editor
from modeledit.errors import ModelError
from modeledit.eval.aspects import (
    Aspects,
    attack_notes,
    by_group,
    compared,
    counted,
    groups_of,
    pixel_model,
    required,
    suggested,
    under_attack,
    with_groups,
)
from modeledit.eval.attacks import Adversarial, craft
from modeledit.eval.changes import metric_changes
from modeledit.eval.classes import summarise
from modeledit.eval.fairness import drops
from modeledit.eval.predictions import Predictions, predict
from modeledit.models import LoadedModel
from modeledit.objectives import Objective
from modeledit.report import Changes, Edit, Measurement, Report, Trial
from modeledit.runtime import Runtime
from modeledit.tail import Tail
from modeledit.targets import ForgetClass, Target
from modeledit.types import EditPlan, Scores
from modeledit.units import logits

CACHE = 2**30  # bytes of activations kept between trials of a search


class Baseline:
    """A network before any edit. What it answers on a split is kept for all edits that follow."""

    def __init__(self, loaded: LoadedModel, data: Data) -> None:
        check_classes(loaded, data)
        self.loaded, self.data = loaded, data
        self.digest = identity(loaded.base_state())
        self._answers: dict[str, Predictions] = {}
        self._tails: dict[str, tuple[Adversarial | None, Tail]] = {}
        self._crafted: dict[tuple[str, Attack, int, ForgetClass | None], Adversarial] = {}

    def answers(self, split: Split, runtime: Runtime) -> Predictions:
        """Predictions on one of the data's splits; the second time they cost nothing."""
        if split.name not in self._answers:
            self._answers[split.name] = predict(
                self.copy(runtime), split, runtime, f"before, {split.name}"
            )
        return self._answers[split.name]

    def tail(
        self,
        names: Sequence[str],
        split: Split,
        runtime: Runtime,
        made: Adversarial | None = None,
    ) -> Tail:
        """A copy's end, from the parameters `names` on, over a split; the last one is kept, as
        edits for other targets by the same scorer need it again. made: what the split shows, where
        it is attacked images."""
        known, kept = self._tails.get(split.name, (None, None))
        if kept is None or known is not made or kept.names != tuple(names):
            with runtime.progress.stage(f"first layers, {split.name}", len(split)) as tick:
                kept = Tail(self.copy(runtime), names, split.batches(runtime), runtime, tick, CACHE)
            self._tails[split.name] = made, kept
        return kept

    def crafted(
        self, aspects: Aspects, split: Split, runtime: Runtime, target: Target | None = None
    ) -> Adversarial:
        """Adversarial images of some of the split's, made once, on the unedited network.

        Images of classes that `target` forgets are left out: no model is to be right about them.
        """
        attack = required(aspects.attack)
        forgotten = target if isinstance(target, ForgetClass) else None
        key = (split.name, attack, aspects.images, forgotten)
        if key not in self._crafted:
            network = pixel_model(self.loaded, self.copy(runtime), runtime)
            among = split.where(counted(split.labels, forgotten))
            some = among.sample(min(aspects.images, len(among)), runtime.seed)
            self._crafted[key] = craft(attack, network, some, runtime)
        return self._crafted[key]

    def replayed(
        self, aspects: Aspects, split: Split, runtime: Runtime, target: Target | None = None
    ) -> Split:
        """The images of `crafted` as the network takes them, with their true labels."""
        made = self.crafted(aspects, split, runtime, target)
        network = pixel_model(self.loaded, self.loaded.module, runtime)
        pairs = TensorDataset(network.inputs(made.changed), made.labels)
        return Split.of(pairs, f"{split.name}, attacked")

    def measured(
        self,
        module: nn.Module | None,
        answers: Predictions,
        target: Target | None,
        aspects: Aspects,
        runtime: Runtime,
    ) -> tuple[Measurement, tuple[str, ...]]:
        """Everything the report says of a network on the test split, and what to know about it.

        module: the edited network, on the runtime's device; None for the unedited one.
        """
        test = self.data.test
        notes: list[str] = []
        found = summarise(answers, target, self.data.class_names)
        if aspects.positive is not None:
            fairness = by_group(compared(answers, target), test, aspects.positive, runtime.seed)
            found = with_groups(found, fairness)
            if fairness.missing:
                notes += fairness.notes(suggested(self.data, aspects.positive))
            if module is None:
                notes += fairness.certain()
            notes += fairness.few()
        if aspects.attack is not None:
            replayed = self.crafted(aspects, test, runtime, target)
            network = pixel_model(self.loaded, module or self.copy(runtime), runtime)
            fresh = replayed
            if module is not None:
                fresh = replayed.again(aspects.attack, network, runtime)
            attack = under_attack(network, replayed, fresh, aspects, runtime)
            found = replace(found, attack=attack)
            notes += attack_notes(attack, "" if module is None else " on the edited network")
        return found, tuple(notes)

    def report(self, target: Target | None, clock: Clock, aspects: Aspects | None = None) -> Report:
        """The network as it is, on the test split."""
        (aspects or Aspects()).check(target)
        with clock.stage("evaluate") as metered:
            answers = self.answers(self.data.test, metered)
            before, said = self.measured(None, answers, target, aspects or Aspects(), metered)
        return Report(
            task="evaluate",
            target=str(target or "none"),
            model={"spec": self.loaded.spec, "digest": self.digest},
            data=_describe(self.data),
            seed=clock.runtime.seed,
            versions=modeledit.versions(),
            before=before,
            cost=clock.cost(),
            notes=self.loaded.notes + self.data.notes + self.data.unreadable_notes() + said,
        )

    def stamped(self, scores: Scores) -> Scores:
        """The scores with the digests of what they were made on."""
        origin = {"model_digest": self.digest, "data_digest": self.data.digest()}
        return replace(scores, header={**scores.header, **origin})

    def copy(self, runtime: Runtime) -> nn.Module:
        """The network, in eval mode, on the runtime's device."""
        return copy.deepcopy(self.loaded.module).to(runtime.device).eval()


def check_classes(loaded: LoadedModel, data: Data) -> None:
    """Refuse data of other classes than the model's."""
    outputs, classes = logits(loaded.module, data.train.example()).shape[1], len(data.class_names)
    if outputs != classes:
        raise ModelError(
            f"the model has {outputs} outputs, the data {classes} classes: they must agree "
            "(class names list the model's classes in order)"
        )


def read_back(loaded: LoadedModel, plan: EditPlan) -> tuple[nn.Module, str]:
    """Write the edited checkpoint, load it from disk: the network that is judged, its identity."""
    with TemporaryDirectory() as folder, Staging(Path(folder) / "edited") as stage:
        state = read_state(stage.write_model(loaded, plan, recipe={}, undo=False))
    return loaded.fresh(state), identity(state)


def judged(
    task: str,
    baseline: Baseline,
    objective: Objective,
    plan: EditPlan,
    trials: tuple[Trial, ...],
    described: Edit,
    clock: Clock,
) -> tuple[Report, nn.Module]:
    """Measure the written edit on the test split and decide its gates, once."""
    data, target, aspects = baseline.data, objective.target, objective.aspects
    with clock.stage("evaluate") as metered:
        network, edited = read_back(baseline.loaded, plan)
        answers = predict(network.to(metered.device), data.test, metered, "after, test")
    unedited = baseline.report(target, clock, aspects)
    before = unedited.before
    with clock.stage("evaluate") as metered:
        after, said = baseline.measured(network, answers, target, aspects, metered)
    changes = changed(baseline, answers, objective, before, clock.runtime)
    word, why = objective.verdict(before, after, changes)
    doubts = objective.doubts(data) + margin_note(data, searched=bool(trials))
    report = Report(
        task=task,
        target=str(target),
        model={**unedited.model, "edited": edited},
        data=unedited.data,
        seed=unedited.seed,
        versions=unedited.versions,
        before=before,
        after=after,
        changes=changes,
        edit=described,
        search=trials,
        gates=objective.gates(before, after, changes),
        verdict=word,
        explanation=why,
        cost=clock.cost(),
        notes=tuple(dict.fromkeys(unedited.notes + said + doubts)),
    )
    return report, network


def changed(
    baseline: Baseline,
    answers: Predictions,
    objective: Objective,
    before: Measurement,
    runtime: Runtime,
) -> Changes | None:
    """What the edit did to the groups of the test split, where they were measured."""
    positive, test = objective.aspects.positive, baseline.data.test
    if positive is None:
        return None
    first = compared(baseline.answers(test, runtime), objective.target)
    then = compared(answers, objective.target)
    pair = (then.labels, first.predicted, then.predicted, groups_of(then, test))
    found = metric_changes(*pair, positive, seed=runtime.seed)
    known = {name: change for name, change in found.items() if name in (before.fairness or {})}
    return Changes(drops(*pair, seed=runtime.seed), known)


def margin_note(data: Data, *, searched: bool) -> tuple[str, ...]:
    """What a search on training images means."""
    if not (searched and data.validation_is_training):
        return ()
    return (
        "validation was cut from training data, where losses look smaller: the search kept "
        "two standard errors of margin instead of one",
    )


def describe_edit(plan: EditPlan, scores: Scores, editor: Editor, model: nn.Module) -> Edit:
    """The report's account of a plan; the fraction is of all the model's parameters."""
    total = sum(parameter.numel() for parameter in model.parameters())
    return Edit(
        scorer=str(scores.header.get("scorer", "unknown")),
        scorer_options=dict(scores.header.get("options", {})),
        editor=editor.name,
        editor_options=dict(plan.header["options"]),
        granularity=scores.granularity,
        strength=plan.header["strength"],
        changed_weights=plan.changed_weights,
        changed_units=plan.changed_units,
        changed_fraction=plan.changed_weights / total,
        by_layer=tuple(
            {"layer": row.layer, "changed": row.changed, "total": row.total}
            for row in plan.by_layer()
        ),
        digest=plan.digest(),
        left_out_units=sum(len(units) for units in plan.left_out.values()),
    )


def _describe(data: Data) -> dict[str, Any]:
    splits = {split.name: len(split) for split in (data.train, data.validation, data.test)}
    return {"spec": data.spec, "digest": data.digest(), "splits": splits}
