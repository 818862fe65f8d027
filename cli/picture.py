"""`modeledit picture`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modeledit.errors import ModelEditError

from . import inputs, making
from .command import option, verb
from .errors import PASSED
from .files import Output, check, record
from .options import FILE, bundle, choice, number
from .options_input import DataChoice, ModelChoice, data_options, model_options
from .options_run import Run, force_option, json_option, run_options
from .params import Context, Parameter, Whole
from .show import draw, emit, emit_json, short

if TYPE_CHECKING:
    from modeledit.pictures import Pictures
    from modeledit.types import Scores, Unit

    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType

OUT = Path("modeledit-pictures")
TOP = 4


class Filter(_Type):
    """`LAYER:INDEX`; whether the model has it is checked later."""

    name = "LAYER:INDEX"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        layer, _, index = str(value).rpartition(":")
        if not layer or not (index.isascii() and index.isdigit()):
            self.fail(f"{value!r} is not of the form LAYER:INDEX, such as conv1:5", param, ctx)
        return layer, int(index)


@dataclass(frozen=True)
class Choice:
    """Which filters."""

    filters: tuple[tuple[str, int], ...]
    scores: Path | None
    top: int | None

    def check(self) -> None:
        """Refuse no choice, or two of them, before torch is imported."""
        if self.top is not None and (self.filters or self.scores is None):
            why = "--filter chooses already: drop one" if self.filters else "add --scores FILE"
            raise ModelEditError(f"--top {self.top} counts filters of a Scores file: {why}")
        if not self.filters and self.scores is None:
            raise ModelEditError(
                "no filter is chosen: name some with --filter LAYER:INDEX, "
                "or take the top of --scores FILE"
            )

    def units(self, scores: Scores | None) -> tuple[Unit, ...]:
        """The chosen filters."""
        from modeledit.pictures import top_units
        from modeledit.types import Unit

        if scores is None or self.filters:
            return tuple(Unit(*each) for each in self.filters)
        return top_units(scores, self.top or TOP)


choice_options = bundle(
    "choice",
    Choice,
    [
        option(
            "--filter",
            "filters",
            type=Filter(),
            multiple=True,
            group="Scoring",
            help="Picture this filter; repeat for several.",
        ),
        option(
            "--scores",
            type=FILE,
            metavar="FILE",
            group="Scoring",
            help="Scores per filter: picture the top ones.",
        ),
        option(
            "--top",
            type=Whole(1),
            metavar="N",
            group="Scoring",
            help=f"How many of --scores; {TOP} if not given.",
        ),
    ],
)


@dataclass(frozen=True)
class Showing:
    """What of each filter."""

    split: Any
    images: int
    response: Any
    steps: int | None


showing_options = bundle(
    "showing",
    Showing,
    [
        option(
            "--split",
            type=click.Choice(["train", "validation", "test"]),
            metavar="NAME",
            default="validation",
            show_default=True,
            group="Data",
            help="Where images come from: train, validation or test.",
        ),
        number("--images", 6, "Most and least active images of each filter.", group="Output"),
        choice(
            "--response",
            ["mean", "max"],
            "How it is read: mean or max over positions.",
            group="Scoring",
            metavar="HOW",
        ),
        option(
            "--steps",
            type=Whole(1),
            metavar="N",
            group="Output",
            help="Steps of gradient ascent of a dream.",
        ),
    ],
)


@verb("picture", "modeledit picture --filter stem.conv:2 --demo -o pictures")
@model_options
@data_options
@choice_options
@showing_options
@option(
    "-o",
    "--output",
    type=FILE,
    metavar="DIR",
    default=OUT,
    show_default=True,
    group="Output",
    help="Folder of the PNG files.",
)
@json_option
@force_option
@run_options
def command(
    output: Path,
    model: ModelChoice,
    data: DataChoice,
    choice: Choice,
    showing: Showing,
    as_json: bool,
    force: bool,
    run: Run,
) -> int:
    """Show what filters look for: most and least active images, and a dream."""
    inputs.check(model, data)
    choice.check()
    read = inputs.paths(model, data, *([choice.scores] if choice.scores else []))
    check([Output("-o", output, folder=True)], read, force=force)
    _check_parent(output)
    runtime = making.runtime(run, as_json=as_json)

    from modeledit import pictures
    from modeledit.checkpoint import load_scores
    from modeledit.dreams import Dreaming

    scores = load_scores(choice.scores) if choice.scores else None
    units = choice.units(scores)
    network, images = inputs.load(model, data, run.seed)
    made = pictures.take(
        network,
        images,
        units,
        split=showing.split,
        images=showing.images,
        reading=showing.response,
        dreaming=Dreaming() if showing.steps is None else Dreaming(steps=showing.steps),
        scores=scores,
        runtime=runtime,
    )
    written = [record(path) for path in pictures.save(made, output)]
    if as_json:
        emit_json({"source": made.source, "filters": [each.to_dict() for each in made.filters]})
        return PASSED
    draw(*_summary(made))
    emit(f"\nwrote  {written[0]} and {len(written) - 1} more, one per filter\n")
    return PASSED


def _check_parent(output: Path) -> None:
    """Refuse a folder that could not be made, before any work."""
    place = output.resolve()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise ModelEditError(f"-o {output}: {place} is no folder to write into: name another")


def _summary(made: Pictures) -> list[Any]:
    """One line per filter."""
    from .show_measurement import table

    shown = table("filter", "score", "dream", "most", "least")
    for each in made.filters:
        score = "-" if each.score is None else f"{each.score:.4g}"
        ends = (
            f"{e[0].response:.3g} {short(e[0].class_name, 14)}" for e in (each.most, each.least)
        )
        shown.add_row(short(each.unit, 40), score, f"{each.dream_response:.3g}", *ends)
    return [made.source, "", shown]
