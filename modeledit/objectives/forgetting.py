"""Forgetting classes: their recall goes to nothing, the accuracy on all others stays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from modeledit.errors import DataError, ModelEditError
from modeledit.eval.classes import worst_recall
from modeledit.eval.predictions import Floats, Predictions
from modeledit.objectives import CERTAIN, NO_EFFECT, UTILITY_LOST, Objective, Seen, beside
from modeledit.report import Changes, ForgetTrial, Measurement, Trial
from modeledit.selection import Strength
from modeledit.targets import ForgetClass, Target

if TYPE_CHECKING:
    from modeledit.data import Data

SUPPRESSED = "suppressed, unverified"
EQUAL = 100.0  # recalls below this part of the limit are not told apart


@dataclass(frozen=True)
class Forgetting(Objective):
    """Among the edits within the utility budget the lowest recall of the forgotten class, then the
    smallest loss of accuracy, then the fewest changes.

    Recall is compared by its estimated tail, since 0 of 100 images can hide 1 of 200, and recalls
    below a hundredth of the limit count as equal: beyond that, keeping utility is worth more.
    """

    classes: tuple[int, ...]
    growth: ClassVar[float] = 2.0
    may_do_nothing: ClassVar[bool] = False

    @property
    def target(self) -> Target:
        return self.forgotten

    @property
    def forgotten(self) -> ForgetClass:
        """The target, by its own kind."""
        return ForgetClass(self.classes)

    @property
    def budget(self) -> float:
        return _given(self.limits.max_retain_drop, "max_retain_drop")

    def check(self, data: Data) -> None:
        """Each forgotten class has examples in every split, and something is left to retain."""
        for split in (data.train, data.validation, data.test):
            for index in self.classes:
                if not (split.labels == index).any():
                    name = data.class_names[index]
                    raise DataError(
                        f"the {split.name} split has no image of class {name!r}: add some, "
                        "or choose another class"
                    )
            if self.forgotten.mask(split.labels).all():
                raise DataError(
                    f"the {split.name} split has no image of a class to retain: add some"
                )

    def comparable(self, answers: Predictions) -> bool:
        """Each forgotten class has to be among the images."""
        seen = set(answers.labels.tolist())
        return super().comparable(answers) and seen.issuperset(self.classes)

    def trial(
        self, strength: Strength, changed: int, before: Seen, after: Seen, errors_kept: float
    ) -> Trial:
        answers = after.answers
        kept = ~self.forgotten.mask(answers.labels)
        drop, error = self.lost(before.answers, answers)
        within = drop + errors_kept * error <= self.budget
        forget = worst_recall(answers, self.forgotten)
        fewest = min(int((answers.labels == c).sum()) for c in self.classes)
        return ForgetTrial(
            strength=strength,
            changed_weights=changed,
            images=len(answers),
            feasible=within and self.keeps(before, after, errors_kept),
            forget=forget,
            forget_se=max(math.sqrt(forget * (1 - forget) / fewest), 1 / fewest),
            forget_tail=max(tail(answers.margin[answers.labels == c]) for c in self.classes),
            retain=float(answers.correct[kept].mean()),
            retain_drop=drop,
            retain_drop_se=error,
        )

    def preference(self, trial: Trial) -> tuple[float, ...]:
        tail, equal = _forget(trial).forget_tail, _given(self.limits.max_forget, "max_forget")
        return max(tail, equal / EQUAL), trial.lost, trial.changed_weights

    def surely_behind(self, trial: Trial, best: Trial) -> bool:
        """By the recall or its tail, whichever is less."""
        seen = _forget(trial)
        least = min(seen.forget, seen.forget_tail) - CERTAIN * seen.forget_se
        return least > self.preference(best)[0]

    def verdict(
        self, before: Measurement, after: Measurement, changes: Changes | None
    ) -> tuple[str, str]:
        """Utility first: without it there is nothing to claim.

        Without retrained references "suppressed, unverified" is the most that can be said: outputs
        do not tell whether the class is still represented inside.
        """
        forget, retain, *others = self.gates(before, after, changes)
        if not retain.passed:
            return UTILITY_LOST, (
                f"accuracy on the retained classes fell by {100 * retain.value:.1f} points, "
                f"limit {100 * retain.limit:.1f}"
            )
        recalls = f"recall {before.forgotten_recall:.3f} before, {after.forgotten_recall:.3f} after"
        if (before.forgotten_recall or 0.0) <= forget.limit:
            return NO_EFFECT, f"there was nothing left to forget: {recalls}, limit {forget.limit:g}"
        if not forget.passed:
            return NO_EFFECT, f"the class is still recognised: {recalls}, limit {forget.limit:g}"
        return beside(others) or (
            SUPPRESSED,
            "its images are no longer recognised; whether the class is still represented inside "
            "the network was not tested",
        )

    def doubts(self, data: Data) -> tuple[str, ...]:
        fewest = min(int((data.test.labels == c).sum()) for c in self.classes)
        limit = _given(self.limits.max_forget, "max_forget")
        groups = super().doubts(data)
        if fewest * limit >= 1:
            return groups
        return (
            *groups,
            f"{fewest} test images of a forgotten class cannot resolve a recall of "
            f"{limit:g}: none may be recognised, and more could be in use",
        )


def _forget(trial: Trial) -> ForgetTrial:
    if not isinstance(trial, ForgetTrial):
        raise TypeError(f"a trial of another objective: {trial}")
    return trial


def tail(margins: Floats) -> float:
    """The share of margins above 0 in the population that n >= 1 margins were drawn from.

    A kernel estimate: the mean of Phi(margin / h) with Silverman's h = 1.06 sd n^(-1/5). Smooth,
    and above 0 when the closest margins are just below it.
    """
    width = 1.06 * margins.std() * len(margins) ** -0.2
    if not width > 0:
        return float((margins > 0).mean())
    scaled = torch.from_numpy(margins / width)
    return float(torch.special.ndtr(scaled.double()).mean())


def _given(limit: float | None, name: str) -> float:
    if limit is None:
        raise ModelEditError(f"forgetting needs the limit {name}: give a number in 0..1")
    return limit
