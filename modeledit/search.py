"""How much to edit: the strength search on the validation split.

Strengths are tried along the order of the scores, from next to nothing upwards, until utility is
far beyond the budget. Among the trials that keep all that must be kept, with a margin, the
objective's preference decides; then the gaps around the best one are halved. One standard error is
kept as margin to the budget, two where validation images were part of the training data (losses
look smaller there).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from modeledit.data import Split
from modeledit.editors import Planner
from modeledit.errors import DataError, ModelEditError
from modeledit.eval.aspects import groups_of
from modeledit.eval.attacks import Adversarial
from modeledit.eval.predictions import Predictions, joined, reduced
from modeledit.judging import Baseline
from modeledit.objectives import Objective, Seen
from modeledit.report import Trial
from modeledit.runtime import Runtime
from modeledit.selection import Strength
from modeledit.surgery import edited
from modeledit.tail import Tail
from modeledit.types import EditPlan, Scores

LARGEST = 0.25  # share of the weights
LONGEST = 40  # strengths on a ladder
HALVINGS = 3  # times the gap around the best strength is halved
HOPELESS = 5.0  # the ladder ends where the drop is this many times the budget
CERTAIN = 4.0  # standard errors beyond that at which a trial is given up before its last image
FEWEST = 200  # images before that
Until = Callable[[Predictions], bool]


@dataclass(frozen=True)
class Shown:
    """Images that the network inside `tail` answers again and again."""

    split: Split
    tail: Tail
    runtime: Runtime

    def answers(
        self, stage: str, *, whole: bool = False, until: Until | None = None
    ) -> Predictions:
        """Of the network as it is now; of the images that the tail holds only the end is run,
        unless the `whole` network may have changed. `until` sees the answers so far and may end
        it."""
        pieces: list[Predictions] = []
        stage_of = self.runtime.progress.stage(stage, len(self.split))
        with torch.inference_mode(), stage_of as tick:
            for piece in self._pieces(whole):
                pieces.append(piece)
                tick(len(piece))
                if until and until(joined(pieces)):
                    break
        return joined(pieces)

    def _pieces(self, whole: bool) -> Iterator[Predictions]:
        """The answers batch by batch, in the order of the split."""
        for held in () if whole else self.tail.pieces:
            logits = self.tail.logits(held, self.runtime)
            yield reduced(logits, held.labels, held.indices)
        # Of a complete tail nothing but unreadable images can be left.
        done = len(self.split) if self.tail.complete else self.tail.taken
        start = 0 if whole else done
        rest = self.split.subset(range(start, len(self.split)))
        for batch in rest.batches(self.runtime) if len(rest) else ():
            logits = self.tail.model(batch.images)
            self.runtime.meter.forward(len(batch.labels))
            yield reduced(logits, batch.labels, batch.indices + start)


@dataclass(frozen=True)
class Bench:
    """What every trial shares: the images, and what they are judged by.

    errors_kept: standard errors of the measured drop that are kept as margin to the budget.
    replayed: the images of `made` as the network takes them, where an attack is replayed.
    """

    objective: Objective
    errors_kept: float
    clean: Shown
    replayed: Shown | None = None
    made: Adversarial | None = None

    @classmethod
    def of(
        cls, baseline: Baseline, scores: Scores, objective: Objective, runtime: Runtime
    ) -> Bench:
        """For edits of what the scores name, on a copy of the model."""
        data, module = baseline.data, baseline.loaded.module
        by_weight = scores.granularity == "weight"
        scored = [name for name, tensor in scores.values.items() if bool(tensor.any())]
        names = scored if by_weight else [name for name, _ in module.named_parameters()]
        errors_kept = 2.0 if data.validation_is_training else 1.0
        mixed = np.random.default_rng(0).permutation(len(data.validation))
        validation = data.validation.subset(mixed)  # so that the first images stand for all
        clean = Shown(validation, baseline.tail(names, validation, runtime), runtime)
        if objective.aspects.attack is None:
            return cls(objective, errors_kept, clean)
        made = baseline.crafted(objective.aspects, data.validation, runtime)
        if not made.correct.any():
            raise DataError(
                "no attacked validation image is classified correctly: give more images"
            )
        split = baseline.replayed(objective.aspects, data.validation, runtime)
        replayed = Shown(split, baseline.tail(names, split, runtime), runtime)
        return cls(objective, errors_kept, clean, replayed, made)

    @cached_property
    def before(self) -> Seen:
        """The answers of the unedited network."""
        return self.seen("before, validation")

    def seen(self, stage: str, *, whole: bool = False, until: Until | None = None) -> Seen:
        """The answers of the network as it is now; `until` may end those to the clean images."""
        answers = self.clean.answers(stage, whole=whole, until=until)
        groups = None
        if self.objective.aspects.positive is not None:
            groups = groups_of(answers, self.clean.split)
        if self.replayed is None:
            return Seen(answers, groups)
        return Seen(answers, groups, self.replayed.answers(stage, whole=whole), self.made)

    def trial(self, strength: Strength, plan: EditPlan) -> Trial:
        """Apply, run the validation images until all is seen or lost, take back."""
        unedited = self.before  # which must be known before anything is edited
        shown = [self.clean, *([self.replayed] if self.replayed else [])]
        whole = any(change.tensor not in self.clean.tail.names for change in plan.changes)
        with ExitStack() as stack:
            for each in shown:
                stack.enter_context(edited(each.tail.model, plan))
            after = self.seen(f"trying strength {strength}", whole=whole, until=self._hopeless)
        before = unedited.first(len(after.answers))
        return self.objective.trial(strength, plan.changed_weights, before, after, self.errors_kept)

    def _hopeless(self, answers: Predictions) -> bool:
        """Whether the ladder could end here, for certain. Groups need every image."""
        if self.objective.aspects.positive is not None or len(answers) < FEWEST:
            return False
        first = self.before.answers.where(np.arange(len(self.before.answers)) < len(answers))
        drop, error = self.objective.lost(first, answers)
        return drop - CERTAIN * max(error, 1 / len(answers)) > HOPELESS * self.objective.budget


def find(
    planner: Planner,
    scores: Scores,
    baseline: Baseline,
    objective: Objective,
    runtime: Runtime,
) -> tuple[EditPlan, tuple[Trial, ...]]:
    """The plan at the chosen strength, and every strength tried, in ascending order.

    When no strength keeps the budget the least harmful one is taken; its gates will fail.
    """
    bench = Bench.of(baseline, scores, objective, runtime)
    trials: dict[Strength, Trial] = {}

    def attempt(strength: Strength) -> Trial:
        if strength not in trials:
            trials[strength] = bench.trial(strength, planner(strength))
        return trials[strength]

    strengths = ladder(scores, objective.growth)
    if objective.may_do_nothing and 0 not in strengths:
        strengths = [0, *strengths]
    climb(strengths, attempt, HOPELESS * objective.budget)
    # Between the rounds of an order of editing nothing was scored anew: the rounds will do.
    for _ in range(0 if "steps" in scores.header else HALVINGS):
        for strength in between(sorted(trials), best(trials, objective).strength):
            attempt(strength)
    chosen = best(trials, objective)
    frontier = (replace(trials[s], chosen=trials[s] is chosen) for s in sorted(trials))
    return planner(chosen.strength), tuple(frontier)


def ladder(scores: Scores, growth: float = 2.0) -> list[Strength]:
    """Strengths from next to nothing upwards, each about `growth` times the one before, and of
    units at least one more.

    Scores that are an order of editing bring their own: the counts at which they were made anew.
    """
    steps = scores.header.get("steps")
    if steps is not None:  # none at all where nothing is left to forget: then nothing is edited
        return list(steps[:: -(-len(steps) // LONGEST)]) if steps else [0]
    if scores.granularity == "filter":
        counts = [1]
        while (more := max(counts[-1] + 1, round(counts[-1] * growth))) <= scores.count / 2:
            counts.append(more)
        return list(counts[:LONGEST])
    largest = max(tensor.numel() for tensor in scores.values.values())
    lowest = max(1.0 / largest, 1e-5)
    powers = int(math.log2(LARGEST / lowest) / math.log2(growth))
    shares = [float(f"{lowest * growth**power:.3g}") for power in range(powers + 1)]
    return list(shares[:LONGEST])


def most_trials() -> int:
    """How many strengths a search tries, at most."""
    return LONGEST + 2 * HALVINGS


def climb(strengths: list[Strength], attempt: Callable[[Strength], Trial], hopeless: float) -> None:
    """Try ever larger strengths until utility is far beyond the budget twice in a row."""
    beyond = 0
    for strength in strengths:
        beyond = beyond + 1 if attempt(strength).lost > hopeless else 0
        if beyond == 2:
            return


def best(trials: dict[Strength, Trial], objective: Objective) -> Trial:
    """The one that the objective prefers; among infeasible ones the one with the smallest drop."""
    if not trials:
        raise ModelEditError("no strength could be tried: the model has nothing to edit")
    feasible = [trial for trial in trials.values() if trial.feasible]
    if not feasible:
        return min(trials.values(), key=lambda t: (t.lost, t.changed_weights))
    return min(feasible, key=objective.preference)


def between(tried: list[Strength], centre: Strength) -> list[Strength]:
    """The geometric middles of the gaps below and above a strength."""
    at = tried.index(centre)
    gaps = [tried[max(at - 1, 0) : at + 1], tried[at : at + 2]]
    middles = [middle(*gap) for gap in gaps if len(gap) == 2 and gap[0] > 0]
    return [value for value in middles if value not in tried]


def middle(low: Strength, high: Strength) -> Strength:
    """The geometric mean; a count stays a count."""
    if isinstance(low, int):
        return round(math.sqrt(low * high))
    return float(f"{math.sqrt(low * high):.3g}")
