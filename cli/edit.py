"""`modeledit edit`."""

from __future__ import annotations

from pathlib import Path

from modeledit.errors import ModelEditError

from . import given, inputs, making
from .command import option, verb
from .estimate import show_plan
from .finish import Destination, finish
from .options import FILE
from .options_edit import (
    Editing,
    Gates,
    attack_gates,
    editing_options,
    gate_options,
    group_gate,
    layers_option,
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
@measure_option
@positive_option
@attack_options(None)
@gate_options
@group_gate(None)
@attack_gates[0]
@attack_gates[1]
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
    measure: tuple[str, ...],
    positive: str,
    attacking: Attacking,
    gates: Gates,
    max_group_drop: float | None,
    max_attack_success: float | None,
    max_adaptive_success: float | None,
    saving: Saving,
    printing: Printing,
    force: bool,
    run: Run,
) -> int:
    """Edit by scores made before: choose, apply, measure and write.

    The target is the one the scores were made for.
    """
    inputs.check(model, data)
    groups = "groups" in measure
    refuse_stray_positive(groups, "--measure groups")
    attack = attacking.chosen("pgd" if "attack" in measure else None)
    to = Destination(saving, printing, None, force)
    if not saving.dry_run:
        to.check(inputs.paths(model, data, scores))
    editor = making.editor(editing)
    runtime = making.runtime(run, as_json=printing.as_json)

    from modeledit import pipeline
    from modeledit.eval.gates import Limits

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
    measured = inputs.aspects(network, images, attack, attacking, positive if groups else None)
    result = pipeline.edit(
        network,
        images,
        found,
        editor=editor,
        strength=editing.strength,
        layers=layers,
        max_forget=gates.max_forget,
        max_retain_drop=gates.max_retain_drop,
        aspects=measured,
        limits=Limits(
            max_group_drop=max_group_drop,
            max_attack_success=max_attack_success,
            max_adaptive_success=max_adaptive_success,
        ),
        runtime=runtime,
    )
    return finish(result, to, verbose=run.verbose)
