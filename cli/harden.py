"""`modeledit harden`."""

from __future__ import annotations

from pathlib import Path

from .command import option, verb
from .job import Job, job_options
from .options_edit import attack_gates, group_gate, max_drop_option, scores_option
from .options_measure import refuse_stray_positive

groups_option = option(
    "--groups", is_flag=True, group="Data", help="Also compare the groups of --group-column."
)


@verb("harden", "modeledit harden --attack pgd --eps 8/255 --steps 20 --targeted --demo")
@job_options(
    "harden",
    "pgd",
    data=[groups_option],
    scoring=[scores_option],
    gates=[max_drop_option, *attack_gates, group_gate(None)],
)
def command(
    job: Job,
    groups: bool,
    scores: Path | None,
    max_drop: float,
    max_attack_success: float | None,
    max_adaptive_success: float | None,
    max_group_drop: float | None,
) -> int:
    """Edit away what an attack leans on, without training.

    Adversarial images are made once, on the intact model: of the training split for scoring, of the
    validation split for choosing, of the test split for judging. Images made anew on the edited
    model are always reported beside them: an attacker who knows the edit comes back.
    """
    refuse_stray_positive(groups, "--groups")
    ready = job.ready("harden", groups=groups, scores=scores)

    from modeledit import repairs
    from modeledit.targets import AttackSuccess

    if job.saving.dry_run:
        return job.estimate(ready, AttackSuccess())
    result = repairs.harden(
        ready.network,
        ready.images,
        keep=ready.keep,
        scorer=ready.scorers or None,
        scores=ready.scores,
        editor=ready.editor,
        strength=job.editing.strength,
        max_drop=max_drop,
        max_attack_success=max_attack_success,
        max_adaptive_success=max_adaptive_success,
        max_group_drop=max_group_drop,
        aspects=ready.aspects,
        runtime=ready.runtime,
        on_scores=job.to.keep_scores,
    )
    return job.finish(ready, result)
