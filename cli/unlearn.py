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
    classes_option,
    editing_options,
    gate_options,
    layers_option,
    scoring_options,
)
from .options_input import DataChoice, ModelChoice, data_options, model_options
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
@classes_option
@editing_options
@gate_options
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
    editing: Editing,
    gates: Gates,
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
    result = pipeline.unlearn(
        network,
        images,
        classes,
        scorer=scorer,
        editor=editor,
        strength=editing.strength,
        layers=layers,
        max_forget=gates.max_forget,
        max_retain_drop=gates.max_retain_drop,
        runtime=runtime,
        on_scores=to.keep_scores,
    )
    code = finish(result, to, verbose=run.verbose)
    inputs.sampled(runtime)
    return code
