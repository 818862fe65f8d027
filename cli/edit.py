"""`modeledit edit`."""

from __future__ import annotations

from pathlib import Path

from modeledit.errors import ModelEditError

from . import given, inputs, making
from .command import option, verb
from .estimate import show_plan
from .finish import Destination, finish
from .options import FILE
from .options_edit import Editing, Gates, editing_options, gate_options, layers_option
from .options_input import DataChoice, ModelChoice, data_options, model_options
from .options_run import (
    Printing,
    Run,
    Saving,
    force_option,
    printing_options,
    run_options,
    saving_options,
)


@verb("edit", "modeledit edit --scores scores.safetensors --demo --strength 0.003")
@model_options
@data_options
@option(
    "--scores",
    type=FILE,
    metavar="FILE",
    required=True,
    group="Editing",
    help="What `modeledit score` wrote.",
)
@editing_options
@layers_option
@gate_options
@saving_options
@printing_options
@force_option
@run_options
def command(
    scores: Path,
    model: ModelChoice,
    data: DataChoice,
    editing: Editing,
    layers: str | tuple[str, ...] | None,
    gates: Gates,
    saving: Saving,
    printing: Printing,
    force: bool,
    run: Run,
) -> int:
    """Edit by scores made before: choose, apply, measure and write.

    The target is the one the scores were made for.
    """
    inputs.check(model, data)
    to = Destination(saving, printing, None, force)
    if not saving.dry_run:
        to.check(inputs.paths(model, data, scores))
    editor = making.editor(editing)
    runtime = making.runtime(run, as_json=printing.as_json)

    from modeledit import pipeline

    found = given.scores(scores, "edit")
    network, images = inputs.load(model, data, run.seed)
    if saving.dry_run:
        if isinstance(editing.strength, str):
            raise ModelEditError("--dry-run cannot tell what auto will choose: give a --strength")
        planned = pipeline.planned(
            network,
            images,
            found,
            editing.strength,
            editor=editor,
            layers=layers,
            runtime=runtime,
        )
        return show_plan(planned, printing, verbose=run.verbose)
    result = pipeline.edit(
        network,
        images,
        found,
        editor=editor,
        strength=editing.strength,
        layers=layers,
        max_forget=gates.max_forget,
        max_retain_drop=gates.max_retain_drop,
        runtime=runtime,
    )
    return finish(result, to, verbose=run.verbose)
