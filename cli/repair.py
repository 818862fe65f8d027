"""`modeledit repair`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .command import option, verb
from .job import Job, job_options
from .options import choice
from .options_edit import attack_gates, group_gate, max_drop_option, scores_option

if TYPE_CHECKING:
    from modeledit.targets import Over

METRICS = ("worst-group", "equalized-odds", "demographic-parity")

over_option = option(
    "--target",
    "over",
    type=click.Choice(["group", "group:worst"]),
    metavar="TARGET",
    default="group:worst",
    show_default=True,
    group="Scoring",
    help="Scores are for the mean of the groups' recall (group) or the worst.",
)
metric_option = choice(
    "--metric",
    METRICS,
    "worst-group, equalized-odds or demographic-parity.",
    group="Editing",
    metavar="METRIC",
)


@verb("repair", "modeledit repair --metric worst-group --model DIR --data csv:faces.zip")
@job_options(
    "repair",
    scoring=[over_option, scores_option],
    editing=[metric_option],
    gates=[max_drop_option, group_gate(0.01), *attack_gates],
)
def command(
    job: Job,
    metric: Any,
    over: str,
    scores: Path | None,
    max_drop: float,
    max_group_drop: float,
    max_attack_success: float | None,
    max_adaptive_success: float | None,
) -> int:
    """Bring a classifier's groups of people closer together, without training.

    Edits what holds the worst group back, as far as no other group and no accuracy is lost. The
    strength is searched on the validation split, the gates are decided once, on the test split.
    """
    ready = job.ready("repair", groups=True, scores=scores)

    from modeledit import repairs
    from modeledit.targets import GroupRecall

    worst: Over = "worst" if over == "group:worst" else "mean"
    if job.saving.dry_run:
        return job.estimate(ready, GroupRecall(worst))
    result = repairs.repair_fairness(
        ready.network,
        ready.images,
        metric,
        positive=ready.aspects.positive or 0,
        over=worst if ready.scores is None else None,
        keep=ready.keep,
        scorer=ready.scorer if ready.scores is None else None,
        scores=ready.scores,
        editor=ready.editor,
        strength=job.editing.strength,
        max_drop=max_drop,
        max_group_drop=max_group_drop,
        max_attack_success=max_attack_success,
        max_adaptive_success=max_adaptive_success,
        aspects=ready.aspects,
        runtime=ready.runtime,
        on_scores=job.to.keep_scores,
    )
    return job.finish(ready, result)
