"""The other two jobs, end to end: repairing fairness between groups, and hardening.

Like `pipeline.unlearn`: score on train, search on validation, judge the written file on test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

from modeledit import candidates, reuse
from modeledit.attacks import Attack
from modeledit.attacks.pgd import Pgd
from modeledit.candidates import Attempt, Scorers
from modeledit.contrast import check
from modeledit.cost import Clock
from modeledit.defaults import EDITOR, EPS, SCORER, STEPS
from modeledit.editors import Editor
from modeledit.errors import ModelEditError
from modeledit.eval.aspects import Aspects
from modeledit.eval.gates import Limits
from modeledit.execution import Auto, Execution
from modeledit.judging import Baseline
from modeledit.objectives.hardening import Hardening
from modeledit.objectives.repairing import Metric, Repairing
from modeledit.pipeline import (
    Datasets,
    Model,
    as_data,
    as_editor,
    as_loaded,
)
from modeledit.result import Result
from modeledit.runtime import Runtime
from modeledit.scorers import Scorer
from modeledit.scoring import scored
from modeledit.selection import Strength
from modeledit.targets import GroupRecall, Over, Target
from modeledit.types import Scores

OnScores = Callable[[Scores], None]


def repair_fairness(
    model: Model,
    data: Datasets,
    metric: Metric = "worst-group",
    *,
    positive: int = 1,
    over: Over | None = None,
    keep: Target | None = None,
    scorer: Scorer | str | None = None,
    scores: Scores | None = None,
    editor: Editor | str = EDITOR["repair"],
    strength: Strength | Auto = "auto",
    max_drop: float = 0.005,
    max_group_drop: float = 0.01,
    max_attack_success: float | None = None,
    max_adaptive_success: float | None = None,
    aspects: Aspects | None = None,
    runtime: Runtime | None = None,
    baseline: Baseline | None = None,
    on_scores: OnScores | None = None,
) -> Result:
    """Bring a classifier's groups of people closer together, and judge it on the test split.

    metric: what is improved: the recall of the worst group, or the difference between groups in
    equalized odds or in demographic parity (for the class `positive`). over: whether scores are for
    the worst group's recall (by default) or the mean of all. The gates: the metric is better than
    before, accuracy falls by at most max_drop, and no group of 150 images or more loses more recall
    than max_group_drop beyond doubt. aspects: an attack to measure as well; max_attack_success and
    max_adaptive_success gate it, as in `harden`. The rest as in `unlearn`.

    scores: made before, for groups, of this model and data; then nothing is scored, and `over`,
    `keep` and `scorer` are what they were made with. on_scores is not called.
    """
    baseline = baseline or Baseline(as_loaded(model), as_data(data))
    if scores is not None:
        _refuse(over=over, keep=keep, scorer=scorer)
        target = cast(GroupRecall, reuse.target_of(scores, baseline, "repair"))
        over = target.over
    extra = aspects or Aspects()
    measured = Aspects(positive, extra.attack, extra.images, extra.queries, extra.rival)
    limits = Limits(
        max_drop=max_drop,
        max_group_drop=max_group_drop,
        max_attack_success=max_attack_success,
        max_adaptive_success=max_adaptive_success,
    )
    objective = Repairing(limits, measured, metric, over or "worst")
    clock = Clock(runtime or Runtime())
    execution = Execution("repair", baseline, objective, as_editor(editor), strength, clock)
    if scores is not None:
        return _reused(execution, scores)
    return _run(execution, keep, scorer or SCORER["repair"], on_scores)


def harden(
    model: Model,
    data: Datasets,
    attack: Attack | None = None,
    *,
    keep: Target | None = None,
    scorer: Scorers | None = None,
    scores: Scores | None = None,
    editor: Editor | str = EDITOR["harden"],
    strength: Strength | Auto = "auto",
    max_drop: float = 0.005,
    max_attack_success: float | None = None,
    max_adaptive_success: float | None = None,
    max_group_drop: float | None = None,
    aspects: Aspects | None = None,
    runtime: Runtime | None = None,
    baseline: Baseline | None = None,
    on_scores: OnScores | None = None,
) -> Result:
    """Edit away what an attack leans on, and judge it on the test split.

    attack: unless given the one that `scores` name, or targeted PGD of 20 steps and 8/255. Its
    images are made once, on the unedited network, of each split: for scoring, for choosing, for
    judging. The gates: accuracy falls by at most max_drop; the success of the replayed images is at
    most max_attack_success, or without that lower than before; of images made anew on the edited
    network at most max_adaptive_success, if given. keep: a behaviour that scores of units weigh
    against the attack. aspects: how many images, another network to take images from, groups to
    measure as well, which max_group_drop gates as in `repair_fairness`.

    scorer: one, or several by name. Of several, each is scored and searched in turn, until one
    leaves nothing to wish for, and the one with the best trial on the validation split is taken;
    the report's `candidates` has them all. "auto", the default: `defaults.CANDIDATES`. on_scores:
    as in `unlearn`, of the first one, and again of a later one that does better.

    scores: made before, for an attack, of this model and data; then nothing is scored, `keep` and
    `scorer` are what they were made with, and a judged attack that is another one is a note.
    """
    baseline = baseline or Baseline(as_loaded(model), as_data(data))
    extra = aspects or Aspects()
    chosen = attack or extra.attack
    if scores is not None:
        _refuse(keep=keep, scorer=scorer)
        reuse.target_of(scores, baseline, "harden")
        chosen = chosen or reuse.attack_of(scores)
    chosen = chosen or Pgd(eps=EPS, steps=STEPS, targeted=True)
    measured = Aspects(extra.positive, chosen, extra.images, extra.queries, extra.rival)
    limits = Limits(
        max_drop=max_drop,
        max_group_drop=max_group_drop,
        max_attack_success=max_attack_success,
        max_adaptive_success=max_adaptive_success,
    )
    objective = Hardening(limits, measured)
    clock = Clock(runtime or Runtime())
    execution = Execution("harden", baseline, objective, as_editor(editor), strength, clock)
    if scores is not None:
        return _reused(execution, scores, reuse.attack_note(scores, chosen))
    return _run(execution, keep, scorer or SCORER["harden"], on_scores)


def _refuse(**given: object) -> None:
    """What is said of scoring where scores are given."""
    for name, value in given.items():
        if value is not None:
            raise ModelEditError(f"scores made before need no {name}: drop it, or the scores")


def _reused(execution: Execution, scores: Scores, notes: tuple[str, ...] = ()) -> Result:
    """By scores made before."""
    execution.editor.check(scores.granularity)
    execution.objective.check(execution.baseline.data)
    execution.clock.made_before("score", int(scores.header.get("passes", 0)))
    found = execution.run(scores)
    return replace(found, report=replace(found.report, notes=found.report.notes + notes))


def _run(
    execution: Execution, keep: Target | None, scorer: Scorers, on_scores: OnScores | None
) -> Result:
    """By the scores of one scorer, or of the best of several."""
    baseline, objective, clock = execution.baseline, execution.objective, execution.clock
    scorers = candidates.named(scorer, execution.task)
    candidates.check(scorers, execution.strength)
    for each in scorers.values():
        execution.editor.check(each.granularity)
    objective.check(baseline.data)
    for each in scorers.values():
        check(each, objective.target, keep)
    tried: list[Attempt] = []
    for name, each in scorers.items():
        start = clock.cost()
        with clock.stage("score") as metered:
            scores = scored(
                baseline, objective.target, each, metered, objective=objective, keep=keep
            )
        if on_scores is not None and not tried:
            on_scores(scores)  # whatever happens next
        plan, trials = execution.planned(scores)
        tried.append(Attempt(name, scores, plan, trials, **candidates.spent(start, clock)))
        if any(objective.content(trial) for trial in trials if trial.chosen):
            break
    best = candidates.winner(tried, objective)
    if on_scores is not None and best is not tried[0]:
        on_scores(best.scores)
    found = execution.judged(best.scores, best.plan, best.trials)
    told = tuple(candidates.recorded(tried, best))
    spared = candidates.spared(scorers, tried)
    report = replace(found.report, candidates=told, notes=found.report.notes + spared)
    return replace(found, report=report)
