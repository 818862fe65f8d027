"""`modeledit unlearn`."""

from __future__ import annotations

from modeledit.errors import ModelEditError

from .command import verb
from .job import Job, job_options
from .options_edit import (
    Gates,
    attack_gates,
    classes_option,
    gate_options,
    group_gate,
    layers_option,
)
from .options_measure import measure_option, refuse_stray_positive


@verb("unlearn", "modeledit unlearn --class 3 --demo")
@job_options(
    "unlearn",
    data=[measure_option],
    scoring=[layers_option],
    editing=[classes_option],
    gates=[gate_options, group_gate(None), *attack_gates],
)
def command(
    job: Job,
    classes: tuple[str, ...],
    layers: str | tuple[str, ...] | None,
    measure: tuple[str, ...],
    gates: Gates,
    max_group_drop: float | None,
    max_attack_success: float | None,
    max_adaptive_success: float | None,
) -> int:
    """Make a classifier forget classes, without fine-tuning.

    Scores come from the training split, the strength from the validation split, and the gates are
    decided once, on the test split. The checkpoint is written only if they pass.
    """
    if not classes:
        raise ModelEditError("no class was named: give --class with its number or name")
    groups = "groups" in measure
    refuse_stray_positive(groups, "--measure groups")
    ready = job.ready("unlearn", groups=groups, attack="pgd" if "attack" in measure else None)

    from modeledit import pipeline
    from modeledit.eval.gates import Limits

    if job.saving.dry_run:
        return job.estimate(ready, pipeline.forget_target(classes, ready.images), layers)
    limits = Limits(
        max_group_drop=max_group_drop,
        max_attack_success=max_attack_success,
        max_adaptive_success=max_adaptive_success,
    )
    result = pipeline.unlearn(
        ready.network,
        ready.images,
        classes,
        scorer=ready.scorer,
        editor=ready.editor,
        strength=job.editing.strength,
        layers=layers,
        keep=ready.keep,
        aspects=ready.aspects,
        limits=limits,
        max_forget=gates.max_forget,
        max_retain_drop=gates.max_retain_drop,
        runtime=ready.runtime,
        on_scores=job.to.keep_scores,
    )
    return job.finish(ready, result)
