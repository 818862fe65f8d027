"""`modeledit unlearn`."""

from __future__ import annotations

from pathlib import Path

from modeledit.errors import ModelEditError

from . import inputs
from .command import verb
from .estimate import show_estimate
from .finish import Destination, finish
from .options_edit import (
    Editing,
    Gates,
    Scoring,
    attack_gates,
    classes_option,
    editing_options,
    gate_options,
    group_gate,
    keep_option,
    layers_option,
    scoring_options,
)
from .options_input import DataChoice, ModelChoice, data_options, model_options
from .options_measure import (
    Attacking,
    attack_options,
    measure_option,
    positive_option,
    refuse_stray_positive,
)
from .options_run import (
    Printing,
    Run,
    Saving,
    force_option,
    printing_options,
    run_options,
    save_scores_option,
    saving_options,
)


@verb("unlearn", "modeledit unlearn --class 3 --demo")
@model_options
@data_options
@scoring_options
@layers_option
@keep_option
@classes_option
@measure_option
@positive_option
@attack_options(None)
@editing_options
@gate_options
@group_gate(None)
@attack_gates[0]
@attack_gates[1]
@saving_options
@printing_options
@save_scores_option
@force_option
@run_options
def command(
    classes: tuple[str, ...],
    model: ModelChoice,
    data: DataChoice,
    scoring: Scoring,
    layers: str | tuple[str, ...] | None,
    keep: str | None,
    measure: tuple[str, ...],
    positive: str,
    attacking: Attacking,
    editing: Editing,
    gates: Gates,
    max_group_drop: float | None,
    max_attack_success: float | None,
    max_adaptive_success: float | None,
    saving: Saving,
    printing: Printing,
    save_scores: Path | None,
    force: bool,
    run: Run,
) -> int:
    """Make a classifier forget classes, without fine-tuning.

    Scores come from the training split, the strength from the validation split, and the gates are
    decided once, on the test split. The checkpoint is written only if they pass.
    """
    if not classes:
        raise ModelEditError("no class was named: give --class with its number or name")
    inputs.check(model, data)
    attack = attacking.chosen("pgd" if "attack" in measure else None)
    refuse_stray_positive("groups" in measure, "--measure groups")
    to = Destination(saving, printing, save_scores, force)
    if not saving.dry_run:
        to.check(inputs.paths(model, data))
    scorer, editor = inputs.scorer(scoring), inputs.editor(editing)
    runtime = inputs.runtime(run, as_json=printing.as_json)
    if not saving.dry_run:
        kept = save_scores or saving.output
        runtime = inputs.sampling(scoring, runtime, kept, force=force)
    network, images = inputs.load(model, data, run.seed)

    from modeledit import pipeline

    if saving.dry_run:
        from modeledit.estimate import estimated

        target = pipeline.forget_target(classes, images)
        estimate = estimated(
            network, images, target, scorer, editing.strength, runtime, editor, layers
        )
        return show_estimate(estimate, printing, verbose=run.verbose)
    from modeledit.eval.gates import Limits

    limits = Limits(
        max_group_drop=max_group_drop,
        max_attack_success=max_attack_success,
        max_adaptive_success=max_adaptive_success,
    )
    result = pipeline.unlearn(
        network,
        images,
        classes,
        scorer=scorer,
        editor=editor,
        strength=editing.strength,
        layers=layers,
        keep=inputs.target(keep, images),
        aspects=inputs.aspects(
            images, attack, attacking, positive if "groups" in measure else None
        ),
        limits=limits,
        max_forget=gates.max_forget,
        max_retain_drop=gates.max_retain_drop,
        runtime=runtime,
        on_scores=to.keep_scores,
    )
    code = finish(result, to, verbose=run.verbose)
    inputs.sampled(runtime)
    return code
