"""How much to edit: the strength search on the validation split.

Among the edits within the utility budget it takes the lowest recall of the forgotten class, then
the smallest loss of accuracy, then the fewest changes. One standard error is kept as margin to the
budget, two where validation images were part of the training data (losses look smaller there).
Recall is compared by its estimated tail, since 0 of 100 images can hide 1 of 200, and recalls below
a hundredth of the gate's limit count as equal: beyond that, keeping utility is worth more.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from modeledit.data import Split
from modeledit.editors import Planner
from modeledit.errors import ModelEditError
from modeledit.eval.classes import worst_recall
from modeledit.eval.gates import Limits
from modeledit.eval.predictions import Floats, Predictions, joined, reduced
from modeledit.judging import Baseline
from modeledit.report import Trial
from modeledit.runtime import Runtime
from modeledit.selection import Strength
from modeledit.surgery import edited
from modeledit.tail import Tail
from modeledit.targets import ForgetClass
from modeledit.types import EditPlan, Scores

LARGEST = 0.25  # share of the weights
LONGEST = 40  # strengths on a ladder
HALVINGS = 3  # times the gap around the best strength is halved
EQUAL = 100.0  # recalls below this part of the limit are not told apart
HOPELESS = 5.0  # the ladder ends where the drop is this many times the budget


@dataclass(frozen=True)
class Bench:
    """What every trial shares: the images, the limits, and the network inside `tail`.

    errors_kept: standard errors of the measured drop that are kept as margin to the budget.
    """

    split: Split
    target: ForgetClass
    limits: Limits
    errors_kept: float
    runtime: Runtime
    tail: Tail

    @classmethod
    def of(
        cls,
        baseline: Baseline,
        scores: Scores,
        target: ForgetClass,
        limits: Limits,
        runtime: Runtime,
    ) -> Bench:
        """For edits of what the scores name, on a copy of the model."""
        data, module = baseline.data, baseline.loaded.module
        by_weight = scores.granularity == "weight"
        scored = [name for name, tensor in scores.values.items() if bool(tensor.any())]
        names = scored if by_weight else [name for name, _ in module.named_parameters()]
        errors_kept = 2.0 if data.validation_is_training else 1.0
        tail = baseline.tail(names, runtime)
        return cls(data.validation, target, limits, errors_kept, runtime, tail)

    @cached_property
    def before(self) -> Predictions:
        """The answers of the unedited network."""
        return self.answers("before, validation")

    def answers(self, stage: str, *, whole: bool = False) -> Predictions:
        """Of the network as it is now; of the images that the tail holds only the end is run,
        unless the `whole` network may have changed."""
        pieces = []
        held = [] if whole else self.tail.pieces
        # Of a complete tail nothing but unreadable images can be left.
        done = len(self.split) if self.tail.complete else self.tail.taken
        start = 0 if whole else done
        rest = self.split.subset(range(start, len(self.split)))
        with torch.inference_mode(), self.runtime.progress.stage(stage, len(self.split)) as tick:
            for piece in held:
                logits = self.tail.logits(piece, self.runtime)
                pieces.append(reduced(logits, piece.labels, piece.indices))
                tick(len(piece.labels))
            for batch in rest.batches(self.runtime) if len(rest) else ():
                logits = self.tail.model(batch.images)
                pieces.append(reduced(logits, batch.labels, batch.indices + start))
                self.runtime.meter.forward(len(batch.labels))
                tick(len(batch.labels))
        return joined(pieces)

    def trial(self, strength: Strength, plan: EditPlan) -> Trial:
        """Apply, run the validation images, take back."""
        before = self.before
        with edited(self.tail.model, plan):
            whole = any(change.tensor not in self.tail.names for change in plan.changes)
            after = self.answers(f"trying strength {strength}", whole=whole)
        kept = ~self.target.mask(before.labels)
        drop, error = paired_drop(before.correct[kept], after.correct[kept])
        return Trial(
            strength=strength,
            changed_weights=plan.changed_weights,
            forget=worst_recall(after, self.target),
            forget_tail=max(tail(after.margin[after.labels == c]) for c in self.target.classes),
            retain=float(after.correct[kept].mean()),
            retain_drop=drop,
            retain_drop_se=error,
            feasible=drop + self.errors_kept * error <= self.limits.max_retain_drop,
        )


def find(
    planner: Planner,
    scores: Scores,
    baseline: Baseline,
    target: ForgetClass,
    limits: Limits,
    runtime: Runtime,
) -> tuple[EditPlan, tuple[Trial, ...]]:
    """The plan at the chosen strength, and every strength tried, in ascending order.

    When no strength keeps the budget the least harmful one is taken; its gates will fail.
    """
    bench = Bench.of(baseline, scores, target, limits, runtime)
    trials: dict[Strength, Trial] = {}

    def attempt(strength: Strength) -> Trial:
        if strength not in trials:
            trials[strength] = bench.trial(strength, planner(strength))
        return trials[strength]

    climb(ladder(scores), attempt, HOPELESS * limits.max_retain_drop)
    # Between the rounds of an order of editing nothing was scored anew: the rounds will do.
    for _ in range(0 if "steps" in scores.header else HALVINGS):
        for strength in between(sorted(trials), best(trials, limits.max_forget / EQUAL).strength):
            attempt(strength)
    chosen = best(trials, limits.max_forget / EQUAL)
    frontier = (replace(trials[s], chosen=trials[s] is chosen) for s in sorted(trials))
    return planner(chosen.strength), tuple(frontier)


def ladder(scores: Scores) -> list[Strength]:
    """Strengths from next to nothing upwards, each about twice the one before.

    Scores that are an order of editing bring their own: the counts at which they were made anew.
    """
    steps = scores.header.get("steps")
    if steps is not None:  # none at all where nothing is left to forget: then nothing is edited
        return list(steps[:: -(-len(steps) // LONGEST)]) if steps else [0]
    if scores.granularity == "filter":
        doublings = int(math.log2(max(scores.count, 2)))
        return [2**power for power in range(doublings)]
    largest = max(tensor.numel() for tensor in scores.values.values())
    lowest = max(1.0 / largest, 1e-5)
    doublings = int(math.log2(LARGEST / lowest))
    return [float(f"{lowest * 2.0**power:.3g}") for power in range(doublings + 1)]


def most_trials() -> int:
    """How many strengths a search tries, at most."""
    return LONGEST + 2 * HALVINGS


def climb(strengths: list[Strength], attempt: Callable[[Strength], Trial], hopeless: float) -> None:
    """Try ever larger strengths until utility is far beyond the budget twice in a row."""
    beyond = 0
    for strength in strengths:
        beyond = beyond + 1 if attempt(strength).retain_drop > hopeless else 0
        if beyond == 2:
            return


def best(trials: dict[Strength, Trial], equal: float) -> Trial:
    """The order of preference; among infeasible strengths the one with the smallest drop.

    Recalls up to `equal` are as good as 0.
    """
    if not trials:
        raise ModelEditError("no strength could be tried: the model has nothing to edit")
    feasible = [trial for trial in trials.values() if trial.feasible]
    if not feasible:
        return min(trials.values(), key=lambda t: (t.retain_drop, t.changed_weights))
    return min(
        feasible, key=lambda t: (max(t.forget_tail, equal), t.retain_drop, t.changed_weights)
    )


def between(tried: list[Strength], centre: Strength) -> list[Strength]:
    """The geometric middles of the gaps below and above a strength."""
    at = tried.index(centre)
    gaps = [tried[max(at - 1, 0) : at + 1], tried[at : at + 2]]
    middles = [middle(*gap) for gap in gaps if len(gap) == 2]
    return [value for value in middles if value not in tried]


def middle(low: Strength, high: Strength) -> Strength:
    """The geometric mean; a count stays a count."""
    if isinstance(low, int):
        return round(math.sqrt(low * high))
    return float(f"{math.sqrt(low * high):.3g}")


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


def paired_drop(
    before: np.ndarray[tuple[int], np.dtype[np.bool_]],
    after: np.ndarray[tuple[int], np.dtype[np.bool_]],
) -> tuple[float, float]:
    """Accuracy lost on the same images, and its standard error from the discordant pairs."""
    change = before.astype(float) - after.astype(float)
    return float(change.mean()), float(change.std() / math.sqrt(len(change)))
