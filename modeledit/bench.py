"""What the strength search tries edits on: validation images, of which it may see a part only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from modeledit.data import Split
from modeledit.errors import DataError
from modeledit.eval.aspects import groups_of
from modeledit.eval.attacks import Adversarial
from modeledit.eval.predictions import Predictions, joined, reduced
from modeledit.judging import Baseline
from modeledit.objectives import CERTAIN, Objective, Seen
from modeledit.report import Trial
from modeledit.runtime import Runtime
from modeledit.selection import Strength
from modeledit.surgery import edited
from modeledit.tail import Tail
from modeledit.types import EditPlan, Scores

HOPELESS = 5.0  # nothing more is to be seen where the drop is this many times the budget
FIRST = 1000  # images on which strengths are compared before any sees all
Until = Callable[[Predictions], bool]


@dataclass(frozen=True)
class Shown:
    """Images that the network inside `tail` answers again and again."""

    split: Split
    tail: Tail
    runtime: Runtime

    def answers(
        self,
        stage: str,
        *,
        whole: bool = False,
        until: Until | None = None,
        known: Predictions | None = None,
    ) -> Predictions:
        """Of the network as it is now; of the images that the tail holds only the end is run,
        unless the `whole` network may have changed. `until` sees the answers so far and may end
        it; `known` are answers to the first images, from a call that was ended."""
        pieces = [] if known is None else [known]
        start = 0 if known is None else int(known.positions[-1]) + 1
        stage_of = self.runtime.progress.stage(stage, len(self.split) - start)
        with torch.inference_mode(), stage_of as tick:
            for piece in self._pieces(whole, start):
                pieces.append(piece)
                tick(len(piece))
                if until and until(joined(pieces)):
                    break
        return joined(pieces)

    def _pieces(self, whole: bool, start: int) -> Iterator[Predictions]:
        """The answers batch by batch, in the order of the split, from the batch on that holds image
        `start` or begins with it."""
        for held in () if whole else self.tail.pieces:
            if int(held.indices[-1]) >= start:
                logits = self.tail.logits(held, self.runtime)
                yield reduced(logits, held.labels, held.indices)
        # Of a complete tail nothing but unreadable images can be left.
        done = len(self.split) if self.tail.complete else self.tail.taken
        start = max(start, 0 if whole else done)
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
    begun: by strength, what trials saw that ended with the first images.
    """

    objective: Objective
    errors_kept: float
    clean: Shown
    replayed: Shown | None = None
    made: Adversarial | None = None
    begun: dict[Strength, Seen] = field(default_factory=dict)

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
        attacked = (objective.aspects, data.validation, runtime, objective.target)
        made = baseline.crafted(*attacked)
        if not made.correct.any():
            raise DataError(
                "no attacked validation image is classified correctly: give more images"
            )
        split = baseline.replayed(*attacked)
        replayed = Shown(split, baseline.tail(names, split, runtime, made), runtime)
        return cls(objective, errors_kept, clean, replayed, made)

    @cached_property
    def before(self) -> Seen:
        """The answers of the unedited network."""
        return self.seen("before, validation")

    def seen(
        self,
        stage: str,
        *,
        whole: bool = False,
        until: Until | None = None,
        known: Seen | None = None,
    ) -> Seen:
        """The answers of the network as it is now; those to the attacked images may be `known`, and
        a part of those to the clean ones, which `until` may end."""
        first, again = (known.answers, known.replayed) if known else (None, None)
        answers = self.clean.answers(stage, whole=whole, until=until, known=first)
        groups = None
        if self.objective.aspects.positive is not None:
            groups = groups_of(answers, self.clean.split)
        if self.replayed is None:
            return Seen(answers, groups)
        replayed = again or self.replayed.answers(stage, whole=whole)
        return Seen(answers, groups, replayed, self.made)

    @property
    def images(self) -> int:
        """How many a trial sees that is seen to the end."""
        return len(self.before.answers)

    def trial(self, strength: Strength, plan: EditPlan, first: int | None = None) -> Trial:
        """Apply, run the `first` of the clean images (None: all) or until all is lost, take back.

        All are run where the first cannot stand for the others, and always those attacked. A
        second trial of a strength goes on where the first one ended.
        """
        unedited = self.before  # which must be known before anything is edited
        shown = [self.clean, *([self.replayed] if self.replayed else [])]
        whole = any(change.tensor not in self.clean.tail.names for change in plan.changes)

        def enough(answers: Predictions) -> bool:
            if not self.objective.comparable(answers):
                return False
            return (first is not None and len(answers) >= first) or self._hopeless(answers)

        with ExitStack() as stack:
            for each in shown:
                stack.enter_context(edited(each.tail.model, plan))
            stage, known = f"trying strength {strength}", self.begun.pop(strength, None)
            after = self.seen(stage, whole=whole, until=enough, known=known)
        if len(after.answers) < self.images:
            self.begun[strength] = after
        before = unedited.first(len(after.answers))
        if not np.array_equal(before.answers.positions, after.answers.positions):
            raise DataError(
                "a validation image could be read before and cannot be read now: check the disk "
                "that holds the data"
            )
        return self.objective.trial(strength, plan.changed_weights, before, after, self.errors_kept)

    def _hopeless(self, answers: Predictions) -> bool:
        """Whether the ladder could end here, for certain."""
        first = self.before.first(len(answers)).answers
        drop, error = self.objective.lost(first, answers)
        return drop - CERTAIN * max(error, 1 / len(answers)) > HOPELESS * self.objective.budget
