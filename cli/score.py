"""`modeledit score`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from modeledit.errors import ModelEditError

from . import inputs, making
from .command import option, verb
from .errors import PASSED
from .files import Output, check, record, use
from .options import FILE
from .options_edit import Scoring, keep_option, layers_option, scoring_options
from .options_input import (
    DataChoice,
    ModelChoice,
    data_options,
    hold_out_option,
    model_options,
)
from .options_measure import Crafting, attack_flag, crafting_options
from .options_run import Run, force_option, json_option, run_options
from .params import TargetSpec
from .show import draw, emit, emit_json
from .show_scores import summary

if TYPE_CHECKING:
    from modeledit.attacks import Attack


@verb("score", "modeledit score --target class:3 --demo -o scores.safetensors")
@model_options
@data_options
@option(
    "--target",
    type=TargetSpec(),
    required=True,
    group="Scoring",
    help="class:NAME[,NAME...], group, group:worst, attack or accuracy.",
)
@hold_out_option
@crafting_options(None)
@scoring_options
@layers_option
@keep_option
@option(
    "-o",
    "--scores",
    "output",
    type=FILE,
    metavar="FILE",
    default=Path("scores.safetensors"),
    show_default=True,
    group="Output",
    help="The scores, for `edit`, `repair`, `harden` or `picture`.",
)
@json_option
@force_option
@run_options
def command(
    target: str,
    output: Path,
    model: ModelChoice,
    data: DataChoice,
    hold_out: float,
    crafting: Crafting,
    scoring: Scoring,
    layers: str | tuple[str, ...] | None,
    keep: str | None,
    as_json: bool,
    force: bool,
    run: Run,
) -> int:
    """Score every weight or filter for a behaviour, once, for many edits.

    For --target attack, images are attacked (by pgd, if --attack names no other): those of the
    training split, on the intact model.
    """
    inputs.check(model, data)
    attack = _attack(crafting, target)
    check([Output("-o", output)], inputs.paths(model, data), force=force)
    scorer = making.scorer(scoring)
    runtime = making.runtime(run, as_json=as_json)
    runtime = making.sampling(scoring, runtime, output, force=force)
    network, images = inputs.load(model, data, run.seed)
    if hold_out:
        images = images.held_out(hold_out, run.seed)

    from modeledit import pipeline, targets
    from modeledit.checkpoint import save_scores
    from modeledit.eval.aspects import Aspects

    behaviour = targets.parse(target, images.class_names)
    kept = inputs.target(keep, images)
    tried = Aspects(attack=attack, images=crafting.images)
    found = pipeline.score(network, images, behaviour, scorer, runtime, layers, kept, tried)
    save_scores(output, found)
    record(output)
    making.sampled(runtime)
    if as_json:
        emit_json(dict(found.header))
        return PASSED
    draw(*summary(found, all_layers=run.verbose))
    emit(f"\nwrote  {output}\n{use(found, output)}")
    return PASSED


def _attack(crafting: Crafting, target: str) -> Attack | None:
    """The one to score; only an attack target takes one."""
    if target == "attack":
        return crafting.chosen("pgd")
    flag = attack_flag()
    if flag is not None:
        raise ModelEditError(f"{flag} goes with --target attack, not {target}: drop one")
    return None
