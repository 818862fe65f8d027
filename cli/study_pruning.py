"""`modeledit study pruning`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .command import option, verb
from .options import bundle, choice, number
from .options_study import Choices, Counts, Radii, Shares, target_option
from .params import Names
from .show import percent, short
from .study_job import Study, study_options

if TYPE_CHECKING:
    from modeledit.study.pruning import Curves

ALL = "all"


@dataclass(frozen=True)
class Drawing:
    """Which curves."""

    granularity: Any
    scorers: tuple[str, ...]
    shares: tuple[float, ...]
    orders: Any
    readings: Any
    replicates: int
    eps: tuple[float, ...]
    samples: tuple[int, ...]
    inputs: int
    neighbourhood: Any

    def settings(self) -> dict[str, Any]:
        """The study's settings by name."""
        return {name: value for name, value in vars(self).items() if name != "scorers"}


drawing_options = bundle(
    "drawing",
    Drawing,
    [
        choice("--granularity", ["weight", "filter"], "weight or filter.", group="Scoring"),
        option(
            "--scorers",
            type=Names(),
            default=ALL,
            show_default=True,
            group="Scoring",
            help="Beside PEPS's measures and random: all that fit, or names.",
        ),
        option(
            "--shares",
            type=Shares(),
            default="0.001,0.003,0.01,0.03,0.1,0.3",
            show_default=True,
            group="Editing",
            help="Shares of each tensor, or of a layer's filters, set to 0.",
        ),
        option(
            "--orders",
            type=Choices(("highest", "lowest")),
            default="highest,lowest",
            show_default=True,
            group="Editing",
            help="Scores edited first: highest, lowest or both.",
        ),
        option(
            "--readings",
            type=Choices(("signed", "negated", "magnitude")),
            default="signed",
            show_default=True,
            group="Editing",
            help="Scores as they are: signed; negated; magnitude.",
        ),
        number("--replicates", 3, "Times that images and perturbations are drawn.", group="Run"),
        option(
            "--eps",
            type=Radii(),
            default="1",
            show_default=True,
            group="Scoring",
            help="Radii of PEPS.",
        ),
        option(
            "--samples",
            type=Counts(),
            default="8,32",
            show_default=True,
            group="Scoring",
            help="Numbers of perturbations of PEPS.",
        ),
        number("--inputs", 32, "Images of PEPS.", group="Scoring"),
        choice(
            "--neighbourhood",
            ["joint", "tensor"],
            "What PEPS moves: joint (all tensors) or one tensor.",
            group="Scoring",
        ),
    ],
)


@verb("pruning", "modeledit study pruning --demo --limit 100 --target class:3")
@study_options(
    "pruning",
    target_option(multiple=True, default=("accuracy",), show_default=True),
    drawing_options,
)
def command(study: Study, target: tuple[str, ...], drawing: Drawing) -> int:
    """Accuracy along pruning by every score, with 95 % intervals."""
    ready = study.ready()

    from modeledit import targets
    from modeledit.study import pruning
    from modeledit.study.pruning_figures import figures

    found = pruning.study(
        ready.network.module,
        ready.images,
        [targets.parse(each, ready.images.class_names) for each in dict.fromkeys(target)],
        pruning.Settings(**drawing.settings()),
        None if drawing.scorers == (ALL,) else drawing.scorers,
        ready.runtime,
    )
    header = {**found.header, "before": found.before, "notes": found.notes}
    return study.finish(ready, header, found.tables(), figures(found), "curves", _summary(found))


def _summary(found: Curves) -> list[Any]:
    """For each target the scores by what they leave on average over the shares, least first."""
    from .show_measurement import notes, table

    parts: list[Any] = []
    for target, before in found.before.items():
        column = "class_f1" if before["class_f1"] is not None else "accuracy"
        words = "F1 of the class" if column == "class_f1" else "accuracy"
        parts.append(
            f"{target}: {words} left, mean over the shares (unedited {percent(before[column])})"
        )
        made = table("score", *(f"{o} first" for o in found.settings.orders), "accuracy left")
        for row in _rows(found, target, column):
            made.add_row(*row)
        parts += [made, ""]
    return parts[:-1] + notes(found.notes)


def _rows(found: Curves, target: str, column: str) -> list[tuple[str, ...]]:
    reading = found.settings.readings[0]
    scores = dict.fromkeys(p.score for p in found.points if p.target == target)
    rows = []
    for score in scores:
        left = [_left(found, target, score, reading, o, column) for o in found.settings.orders]
        overall = _left(found, target, score, reading, found.settings.orders[0], "accuracy")
        rows.append((left[0] or 0.0, (short(score, 34), *map(percent, left), percent(overall))))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def _left(
    found: Curves, target: str, score: str, reading: str, order: str, column: str
) -> float | None:
    points = found.curve(target, score, reading, order, column)
    return sum(point[1] for point in points) / len(points) if points else None
