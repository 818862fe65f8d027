"""`modeledit score`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import inputs
from .command import option, verb
from .errors import PASSED
from .files import Output, check, record
from .options import FILE
from .options_edit import Scoring, keep_option, layers_option, scoring_options
from .options_input import DataChoice, ModelChoice, data_options, model_options
from .options_run import Run, force_option, json_option, run_options
from .params import TargetSpec
from .show import clean, draw, emit, emit_json, short

if TYPE_CHECKING:
    from modeledit.targets import Target
    from modeledit.types import Scores

LAYERS = 5  # lines that are always shown


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
    help="The scores, for `modeledit edit` and `picture`.",
)
@json_option
@force_option
@run_options
def command(
    target: str,
    output: Path,
    model: ModelChoice,
    data: DataChoice,
    scoring: Scoring,
    layers: str | tuple[str, ...] | None,
    keep: str | None,
    as_json: bool,
    force: bool,
    run: Run,
) -> int:
    """Score every weight or filter for a behaviour, once, for many edits."""
    inputs.check(model, data)
    check([Output("-o", output)], inputs.paths(model, data), force=force)
    scorer = inputs.scorer(scoring)
    runtime = inputs.runtime(run, as_json=as_json)
    runtime = inputs.sampling(scoring, runtime, output, force=force)
    network, images = inputs.load(model, data, run.seed)

    from modeledit import pipeline, targets
    from modeledit.checkpoint import save_scores

    behaviour = targets.parse(target, images.class_names)
    kept = inputs.target(keep, images)
    found = pipeline.score(network, images, behaviour, scorer, runtime, layers, kept)
    save_scores(output, found)
    record(output)
    inputs.sampled(runtime)
    if as_json:
        emit_json(dict(found.header))
        return PASSED
    draw(*_summary(found, all_layers=run.verbose))
    emit(f"\nwrote  {output}\n{_use(behaviour, found, output)}")
    return PASSED


def _use(behaviour: Target, scores: Scores, output: Path) -> str:
    """What can be done with them: edits by a file of scores are for classes only."""
    from modeledit.targets import ForgetClass

    verbs = ["edit"] if isinstance(behaviour, ForgetClass) else []
    verbs += ["picture"] if scores.granularity == "filter" else []
    return "".join(f"use    modeledit {verb} --scores {output} ...\n" for verb in verbs)


def _summary(scores: Scores, *, all_layers: bool) -> list[Any]:
    """The score's distribution by tensor, the largest first."""
    from .show_measurement import table

    made = table("tensor", "entries", "largest", "mean")
    rows = sorted(scores.values.items(), key=lambda item: -float(item[1].max()))
    most = len(rows) if all_layers else LAYERS
    for name, values in rows[:most]:
        largest, mean = float(values.max()), float(values.mean())
        made.add_row(short(name, 44), f"{values.numel():,}", f"{largest:.4g}", f"{mean:.4g}")
    parts: list[Any] = [clean(scores), made]
    if len(rows) > most:
        parts.append(f"and {len(rows) - most} more (all with --verbose)")
    return parts
