"""How much to edit: the strength search on the validation split.

Strengths are tried along the order of the scores, from next to nothing upwards, until utility is
far beyond the budget. Among the trials that keep all that must be kept, with a margin, the
objective's preference decides; then the gaps around the best one are halved. One standard error is
kept as margin to the budget, two where validation images were part of the training data (losses
look smaller there). A strength sees a first part of the images, and the rest only if these leave
open whether it is the best.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from modeledit.bench import FIRST, HOPELESS, Bench
from modeledit.editors import Planner
from modeledit.errors import ModelEditError
from modeledit.judging import Baseline
from modeledit.objectives import CERTAIN, Objective
from modeledit.report import Trial
from modeledit.runtime import Runtime
from modeledit.selection import Strength
from modeledit.types import EditPlan, Scores

LARGEST = 0.25  # share of the weights
LONGEST = 40  # strengths on a ladder
HALVINGS = 3  # times the gap around the best strength is halved
Trials = dict[Strength, Trial]


def find(
    planner: Planner,
    scores: Scores,
    baseline: Baseline,
    objective: Objective,
    runtime: Runtime,
    first: int | None = FIRST,
) -> tuple[EditPlan, tuple[Trial, ...]]:
    """The plan at the chosen strength, and every strength tried, in ascending order.

    first: images that all strengths see; None is all, for plans that are dear to make again. When
    no strength keeps the budget the least harmful one is taken; its gates will fail.
    """
    bench = Bench.of(baseline, scores, objective, runtime)
    trials: Trials = {}

    def attempt(strength: Strength) -> Trial:
        if strength not in trials:
            trials[strength] = bench.trial(strength, planner(strength), first)
        return trials[strength]

    def decided() -> Trial:
        while (strength := undecided(trials, objective, bench.images)) is not None:
            trials[strength] = bench.trial(strength, planner(strength))
        return best(trials, objective, bench.images)

    strengths = ladder(scores, objective.growth)
    if objective.may_do_nothing and 0 not in strengths:
        strengths = [0, *strengths]
    climb(strengths, attempt, HOPELESS * objective.budget)
    # Between the rounds of an order of editing nothing was scored anew: the rounds will do.
    for _ in range(0 if "steps" in scores.header else HALVINGS):
        for strength in between(sorted(trials), decided().strength):
            attempt(strength)
    chosen = decided()
    frontier = (replace(trials[s], chosen=trials[s] is chosen) for s in sorted(trials))
    return planner(chosen.strength), tuple(frontier)


def undecided(trials: Trials, objective: Objective, images: int) -> Strength | None:
    """Of the strengths that saw a part of the images, and may be the best, the one preferred."""
    whole = [trial for trial in trials.values() if trial.images >= images and trial.feasible]
    rival = min(whole, key=objective.preference, default=None)

    def out(trial: Trial) -> bool:
        least = trial.lost - CERTAIN * max(trial.lost_se, 1 / trial.images)
        behind = rival is not None and objective.surely_behind(trial, rival)
        return least > objective.budget or behind

    waiting = [t for t in trials.values() if t.images < images and not out(t)]
    return min(waiting, key=objective.preference).strength if waiting else None


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
    return 1 + LONGEST + 2 * HALVINGS


def climb(strengths: list[Strength], attempt: Callable[[Strength], Trial], hopeless: float) -> None:
    """Try ever larger strengths until utility is far beyond the budget twice in a row."""
    beyond = 0
    for strength in strengths:
        beyond = beyond + 1 if attempt(strength).lost > hopeless else 0
        if beyond == 2:
            return


def best(trials: Trials, objective: Objective, images: int = 0) -> Trial:
    """The one that the objective prefers, of those that saw as many images if any did; among
    infeasible ones the one with the smallest drop."""
    if not trials:
        raise ModelEditError("no strength could be tried: the model has nothing to edit")
    seen = [t for t in trials.values() if t.images >= images] or list(trials.values())
    feasible = [trial for trial in seen if trial.feasible]
    if not feasible:
        return min(seen, key=lambda t: (t.lost, t.changed_weights))
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
