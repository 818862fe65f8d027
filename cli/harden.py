"""`modeledit harden`."""

from __future__ import annotations

from pathlib import Path

from modeledit.defaults import EDITOR, SCORER

from . import inputs
from .command import option, verb
from .finish import Destination, finish
from .options_edit import (
    Editing,
    Scoring,
    attack_gates,
    editing_with,
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


@verb("harden", "modeledit harden --attack pgd --eps 8/255 --steps 20 --targeted --demo")
@model_options
@data_options
@option("--groups", is_flag=True, group="Data", help="Also compare the groups of --group-column.")
@positive_option
@attack_options("pgd")
@scoring_with(SCORER["harden"])
@keep_option
@editing_with(EDITOR["harden"])
@max_drop_option
@attack_gates[0]
@attack_gates[1]
@saving_options
@printing_options
@save_scores_option
@force_option
@run_options
def command(
    groups: bool,
    positive: str,
    attacking: Attacking,
    keep: str | None,
    max_drop: float,
    max_attack_success: float | None,
    max_adaptive_success: float | None,
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
    """Edit away what an attack leans on, without training.

    Adversarial images are made once, on the intact model: of the training split for scoring, of the
    validation split for choosing, of the test split for judging. Images made anew on the edited
    model are always reported beside them: an attacker who knows the edit comes back.
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
    aspects = inputs.aspects(images, attack, attacking, positive if groups else None)

    from modeledit import repairs

    if saving.dry_run:
        from modeledit.targets import AttackSuccess

        return inputs.dry_run(
            network, images, AttackSuccess(), scorer, editing, runtime, printing, run.verbose
        )
    result = repairs.harden(
        network,
        images,
        attack,
        keep=inputs.target(keep, images),
        scorer=scorer,
        editor=editor,
        strength=editing.strength,
        max_drop=max_drop,
        max_attack_success=max_attack_success,
        max_adaptive_success=max_adaptive_success,
        aspects=aspects,
        runtime=runtime,
        on_scores=to.keep_scores,
    )
    code = finish(result, to, verbose=run.verbose)
    inputs.sampled(runtime)
    return code
