"""What an edit is for: what it improves, what it must keep, and how both are decided.

Score, order, search and gate are the same for all objectives; an objective says which images show
the behaviour, what a trial on the validation split is worth, and what the gates of the test split
amount to.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from modeledit.errors import ModelEditError
from modeledit.eval.aspects import Aspects, counted
from modeledit.eval.attacks import Adversarial
from modeledit.eval.fairness import RELIABLE, TELLING
from modeledit.eval.gates import Limits, judge
from modeledit.eval.predictions import Predictions
from modeledit.eval.rates import Names
from modeledit.report import Changes, GateResult, Measurement, Trial
from modeledit.runtime import Runtime
from modeledit.selection import Strength
from modeledit.targets import Target

if TYPE_CHECKING:
    from modeledit.data import Data, Split
    from modeledit.judging import Baseline

NO_EFFECT = "no effect"
UTILITY_LOST = "utility lost"
GROUP_HARMED = "a group was harmed"
ATTACK_SUCCEEDS = "an attack succeeds"
FEWEST = 200  # images that stand for all
CERTAIN = 4.0  # standard errors at which the first images settle what all of them would say
BEYOND_DOUBT = 2.0  # standard errors: those of the gate that judges the harm of groups
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Seen:
    """A network's answers on the images that an edit is chosen on.

    groups: (n,) of the answered images, where groups are measured. replayed: answers to the images
    of `made`, where an attack is; these were made on the unedited network.
    """

    answers: Predictions
    groups: Names | None = None
    replayed: Predictions | None = None
    made: Adversarial | None = None

    def first(self, n: int) -> Seen:
        """With the first n of the answers only."""
        groups = None if self.groups is None else self.groups[:n]
        rows = np.arange(len(self.answers)) < n
        return replace(self, answers=self.answers.where(rows), groups=groups)

    def success(self) -> tuple[float, float]:
        """Shares of the replayed images that the unedited network classifies correctly when clean:
        those taken for what the attacker wants, and those given their true class."""
        if self.replayed is None or self.made is None:
            raise ModelEditError("no attack was replayed: measure one")
        among, predicted = self.made.correct, self.replayed.predicted
        right = predicted == self.made.labels.numpy()
        targets = self.made.targets
        reached = ~right if targets is None else predicted == targets.numpy()
        return float(reached[among].mean()), float(right[among].mean())


@dataclass(frozen=True)
class Objective(ABC):
    """Base of all objectives.

    limits: what must be kept. aspects: what is measured besides the classes.
    growth: of the number of edited filters, or of the share of weights, from trial to trial.
    may_do_nothing: whether the unedited network is a trial too.
    """

    limits: Limits
    aspects: Aspects
    growth: ClassVar[float] = 1.25
    may_do_nothing: ClassVar[bool] = True

    def __post_init__(self) -> None:
        groups, attack = self.aspects.positive is not None, self.aspects.attack is not None
        self.limits.refuse_unmeasured(groups=groups, attack=attack)
        self.aspects.check(self.target)

    @property
    @abstractmethod
    def target(self) -> Target:
        """What scores are for."""

    @property
    @abstractmethod
    def budget(self) -> float:
        """The accuracy that may be lost."""

    def check(self, data: Data) -> None:
        """Refuse data on which the objective cannot be scored, searched or judged."""
        del data

    def scored(
        self, baseline: Baseline, runtime: Runtime, along: int = 1
    ) -> tuple[Split, Split | None]:
        """The images of the training split that show the target, and those that must not suffer,
        where they are no part of the first. along: images shown of each that was attacked."""
        del runtime, along
        return baseline.data.train, None

    def header(self) -> dict[str, Any]:
        """What scores for it say of the images that show the target, beside the target's name."""
        return {}

    def lost(self, before: Predictions, after: Predictions) -> tuple[float, float]:
        """Accuracy lost on the images that must not suffer, and its paired standard error."""
        kept = counted(before.labels, self.target)
        return paired_drop(before.correct[kept], after.correct[kept])

    def comparable(self, answers: Predictions) -> bool:
        """Whether the first images of the validation split, whose answers these are, can stand for
        all. A group may have its only images among the last."""
        return self.aspects.positive is None and len(answers) >= FEWEST

    @abstractmethod
    def trial(
        self, strength: Strength, changed: int, before: Seen, after: Seen, errors_kept: float
    ) -> Trial:
        """One strength, on the validation split."""

    @abstractmethod
    def preference(self, trial: Trial) -> tuple[float, ...]:
        """Of the feasible trials the one of the smallest is chosen."""

    def surely_behind(self, trial: Trial, best: Trial) -> bool:
        """Whether `best`, which is feasible and saw all images, will be preferred to a trial that
        saw the first ones, whatever the others say of it."""
        del trial, best
        return False

    def content(self, trial: Trial) -> bool:
        """Whether a trial leaves nothing to wish for, so that no other scorer has to be tried."""
        del trial
        return False

    def gates(
        self, before: Measurement, after: Measurement, changes: Changes | None
    ) -> tuple[GateResult, ...]:
        """On the test split."""
        return judge(before, after, self.limits, changes)

    @abstractmethod
    def verdict(
        self, before: Measurement, after: Measurement, changes: Changes | None
    ) -> tuple[str, str]:
        """The verdict and one sentence why."""

    def doubts(self, data: Data) -> tuple[str, ...]:
        """What the reader of the numbers must know about the images behind them."""
        if self.limits.max_group_drop is None or data.test.groups is None:
            return ()
        shown = data.test.groups[counted(data.test.labels, self.target)]
        names, counts = np.unique(shown, return_counts=True)
        small = [str(name) for name, n in zip(names, counts, strict=True) if n < RELIABLE]
        if not small:
            return ()
        return (f"under {RELIABLE} test images, so reported and not gated: {', '.join(small)}",)

    def keeps(self, before: Seen, after: Seen, errors_kept: float) -> bool:
        """Whether a trial keeps the limits, but for those of forgotten classes: each with a margin
        of `errors_kept` standard errors to where the gate would fail. Groups of a few images, in
        which one decides, are left to the report: the gate leaves out those under 150."""
        limits = self.limits
        if limits.max_drop is not None:
            drop, error = paired_drop(before.answers.correct, after.answers.correct)
            if drop + errors_kept * error > limits.max_drop:
                return False
        if limits.max_group_drop is not None and before.groups is not None:
            sure = errors_kept - BEYOND_DOUBT
            drops = group_drops(before, after, self.target, least=TELLING)
            if any(drop + sure * error > limits.max_group_drop for _, drop, error in drops):
                return False
        if limits.max_attack_success is not None and after.replayed is not None:
            return self.keeps_attack(after.success()[0])
        return True

    def keeps_attack(self, success: float) -> bool:
        """Whether a replayed success is within the limit."""
        return self.limits.max_attack_success is None or success <= self.limits.max_attack_success


def group_drops(
    before: Seen, after: Seen, target: Target, least: int = 1
) -> list[tuple[str, float, float]]:
    """(name, recall lost, its paired standard error) of each group of at least that many images,
    without what is forgotten."""
    groups, answers = before.groups, before.answers
    if groups is None:
        raise ModelEditError("no groups were measured: ask for them")
    shown = counted(answers.labels, target)
    rows = []
    for name in np.unique(groups[shown]).tolist():
        own = shown & (groups == name)
        if own.sum() >= least:
            rows.append((name, *paired_drop(answers.correct[own], after.answers.correct[own])))
    return rows


def paired_drop(before: Bools, after: Bools) -> tuple[float, float]:
    """Accuracy lost on the same images, and its standard error from the discordant pairs."""
    change = before.astype(float) - after.astype(float)
    return float(change.mean()), float(change.std() / math.sqrt(len(change)))


def beside(gates: Sequence[GateResult]) -> tuple[str, str] | None:
    """The verdict if a gate on what must be kept failed; utility first."""
    failed = {gate.name: gate for gate in gates if not gate.passed and not gate.strict}
    if (gate := failed.get("accuracy drop")) is not None:
        return UTILITY_LOST, (
            f"accuracy fell by {100 * gate.value:.1f} points, limit {100 * gate.limit:.1f}"
        )
    for name, gate in failed.items():
        if name.startswith("sure recall drop of "):
            group = name.removeprefix("sure recall drop of ")
            return GROUP_HARMED, (
                f"the recall of {group} fell by at least {100 * gate.value:.1f} points "
                f"(95 % interval), limit {100 * gate.limit:.1f}"
            )
        if name.endswith("attack success"):
            return ATTACK_SUCCEEDS, f"{name} {gate.value:.3f}, limit {gate.limit:g}"
    return None
