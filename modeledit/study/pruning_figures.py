"""Pruning curves, all scores of a target on one page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from modeledit.study.contestants import RANDOM
from modeledit.study.drawing import COLOURS, GREY, grid, sheet, style
from modeledit.study.pruning import Curves

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

COLUMNS = 4
_WORDS = {
    "accuracy": "accuracy, all classes",
    "class_f1": "F1 of the class",
}
_MARKS: Mapping[str, tuple[Literal["-", "--"], str]] = {
    "highest": ("-", "o"),
    "lowest": ("--", "s"),
}


def figures(found: Curves) -> dict[str, Figure]:
    """{name: page}: for every target and reading the overall accuracy, and the class's F1."""
    pages = {}
    for target, before in found.before.items():
        for reading in found.settings.readings:
            for column, words in _WORDS.items():
                if before[column] is not None and _drawn(found, reading):
                    name = f"{_plain(target)}-{reading}-{column.replace('_', '-')}"
                    pages[name] = page(found, target, reading, column, words)
    return pages


def _drawn(found: Curves, reading: str) -> bool:
    return any(p.reading == reading and p.score != RANDOM for p in found.points)


def _plain(target: str) -> str:
    return re.sub(r"[^\w.-]+", "-", target)


def page(found: Curves, target: str, reading: str, column: str, words: str) -> Figure:
    """A panel per measure of PEPS and per scorer; chance is grey in each."""
    mine = [p for p in found.points if p.target == target and p.score != RANDOM]
    panels = list(dict.fromkeys(p.panel for p in mine))
    lines = {
        panel: list(dict.fromkeys(p.score for p in mine if p.panel == panel)) for panel in panels
    }
    rows = -(-len(panels) // COLUMNS)
    per = "weights of each tensor" if found.settings.granularity == "weight" else "filters by layer"
    with style():
        figure = sheet(11, 1.4 + 2.3 * rows, f"{target}: {words}, {reading} scores")
        axes = [a for row in grid(figure, rows, COLUMNS, sharex=True, sharey=True) for a in row]
        for place, panel in enumerate(panels):
            _panel(axes[place], found, target, reading, column, panel, lines[panel])
        for place, empty in enumerate(axes):
            if place >= len(panels):
                empty.set_axis_off()
            elif place + COLUMNS >= len(panels):
                empty.tick_params(labelbottom=True)
        figure.supxlabel(f"share of the {per} set to 0", fontsize=9)
        figure.legend(handles=_key(found), loc="outside upper right", ncols=4)
        return figure


def _panel(
    axes: Axes, found: Curves, target: str, reading: str, column: str, panel: str, scores: list[str]
) -> None:
    alone = scores[0].removeprefix(panel) if len(scores) == 1 else ""
    axes.set_title(panel + alone, weight="bold")
    axes.set_xscale("log")
    axes.set_ylim(-0.02, 1.02)
    axes.axhline(found.before[target][column] or 0, color=GREY, linewidth=0.8, linestyle=":")
    chance = next((p for p in found.points if p.score == RANDOM), None)
    if chance is not None:
        _line(axes, found, (target, RANDOM, chance.reading, chance.order), column, GREY, "")
    for place, score in enumerate(scores):
        for order in found.settings.orders:
            label = score.removeprefix(panel).strip() if order == found.settings.orders[0] else ""
            colour = COLOURS[place % len(COLOURS)]
            _line(axes, found, (target, score, reading, order), column, colour, label)
    if len(scores) > 1:
        axes.legend(loc="lower left", fontsize=7)


def _line(
    axes: Axes,
    found: Curves,
    which: tuple[str, str, str, str],
    column: str,
    colour: str,
    label: str,
) -> None:
    points = found.curve(*which, column)
    if not points:
        return
    shares, means, low, high = zip(*points, strict=True)
    dash, mark = ("-", "") if which[1] == RANDOM else _MARKS[which[3]]
    axes.plot(
        shares, means, dash, marker=mark, markersize=3, linewidth=1.3, color=colour, label=label
    )
    if found.settings.replicates > 1:
        axes.fill_between(shares, low, high, color=colour, alpha=0.18, linewidth=0)


def _key(found: Curves) -> list[Line2D]:
    from matplotlib.lines import Line2D

    made: list[Line2D] = []
    for order in found.settings.orders:
        dash, mark = _MARKS[order]
        made.append(
            Line2D([], [], linestyle=dash, marker=mark, markersize=3, color="black",
                   label=f"{order} scores first")
        )  # fmt: skip
    made.append(Line2D([], [], color=GREY, label="random"))
    made.append(Line2D([], [], color=GREY, linestyle=":", linewidth=0.8, label="unedited"))
    return made
