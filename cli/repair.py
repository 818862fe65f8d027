"""`modeledit repair`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modeledit.defaults import EDITOR, SCORER

from . import inputs
from .command import option, verb
from .finish import Destination, finish
from .options_edit import (
    Editing,
    Scoring,
    editing_with,
    group_gate,
    keep_option,
    max_drop_option,
    scoring_with,
)
from .options_input import DataChoice, ModelChoice, data_options, model_options
from .options_measure import Attacking, attack_options, positive_option
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

if TYPE_CHECKING:
    from modeledit.targets import Over

METRICS = ("worst-group", "equalized-odds", "demographic-parity")


@verb("repair", "modeledit repair --metric worst-group --model DIR --data csv:faces.zip")
@model_options
@data_options
@positive_option
@attack_options(None)
@scoring_with(SCORER["repair"])
@option(
    "--target",
    "over",
    type=click.Choice(["group", "group:worst"]),
    metavar="TARGET",
    default="group:worst",
    show_default=True,
    group="Scoring",
    help="Scores are for the mean of the groups' recall (group) or the worst.",
)
@keep_option
@option(
    "--metric",
    type=click.Choice(METRICS),
    metavar="METRIC",
    default="worst-group",
    show_default=True,
    group="Editing",
    help="worst-group, equalized-odds or demographic-parity.",
)
@editing_with(EDITOR["repair"])
@max_drop_option
@group_gate(0.01)
@saving_options
@printing_options
@save_scores_option
@force_option
@run_options
def command(
    metric: Any,
    over: str,
    keep: str | None,
    positive: str,
    attacking: Attacking,
    max_drop: float,
    max_group_drop: float,
    model: ModelChoice,
    data: DataChoice,
    scoring: Scoring,
    editing: Editing,
    saving: Saving,
    printing: Printing,
    save_scores: Path | None,
    force: bool,
    run: Run,
) -> int:
    """Bring a classifier's groups of people closer together, without training.

    Edits what holds the worst group back, as far as no other group and no accuracy is lost. The
    strength is searched on the validation split, the gates are decided once, on the test split.
    """
    inputs.check(model, data)
    attack = attacking.chosen()
    to = Destination(saving, printing, save_scores, force)
    if not saving.dry_run:
        to.check(inputs.paths(model, data))
    scorer, editor = inputs.scorer(scoring), inputs.editor(editing)
    runtime = inputs.runtime(run, as_json=printing.as_json)
    if not saving.dry_run:
        runtime = inputs.sampling(scoring, runtime, save_scores or saving.output, force=force)
    network, images = inputs.load(model, data, run.seed)
    aspects = inputs.aspects(images, attack, attacking, positive)

    from modeledit import repairs

    if saving.dry_run:
        from modeledit.targets import GroupRecall

        return inputs.dry_run(
            network, images, GroupRecall(), scorer, editing, runtime, printing, run.verbose
        )
    worst: Over = "worst" if over == "group:worst" else "mean"
    result = repairs.repair_fairness(
        network,
        images,
        metric,
        positive=aspects.positive or 0,
        over=worst,
        keep=inputs.target(keep, images),
        scorer=scorer,
        editor=editor,
        strength=editing.strength,
        max_drop=max_drop,
        max_group_drop=max_group_drop,
        aspects=aspects,
        runtime=runtime,
        on_scores=to.keep_scores,
    )
    code = finish(result, to, verbose=run.verbose)
    inputs.sampled(runtime)
    return code
