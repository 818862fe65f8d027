"""The distributions and their differences, drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modeledit.study.distributions import Distributions, Shape
from modeledit.study.drawing import (
    COLOURS,
    DIVERGING,
    INK,
    grid,
    sheet,
    shortened,
    style,
)
from modeledit.study.gathering import MEASURES, PER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_EDGE = {"weight": "parameter", "filter": "filter"}
_SURE = 0.05


def figures(found: Distributions) -> dict[str, Figure]:
    """{name: page}: histograms for each radius and granularity, and the effects by layer."""
    pages = {
        f"histograms-{per}-eps{eps:g}": histograms(found, eps, per)
        for eps in found.settings.eps
        for per in PER
    }
    return {**pages, **{f"effects-{per}": effects(found, per) for per in PER}}


def histograms(found: Distributions, eps: float, per: str) -> Figure:
    """A row per measure, a column per network; the closest family as a line."""
    with style():
        columns = len(found.networks)
        figure = sheet(1.0 + 2.9 * columns, 8.6, f"PEPS measures per {_EDGE[per]}, radius {eps:g}")
        panels = grid(figure, len(MEASURES), columns)
        for row, measure in zip(panels, MEASURES, strict=True):
            for position, (axes, network) in enumerate(zip(row, found.networks, strict=True)):
                shape = found.shapes[network, eps, measure, per]
                _histogram(axes, shape, COLOURS[position % len(COLOURS)])
                if measure == MEASURES[0]:
                    share = f"{100 * found.accuracy[network]:.0f} %"
                    axes.set_title(f"{network} (accuracy {share})", weight="bold", y=1.1)
            row[0].set_ylabel(f"{measure}\ndensity")
        return figure


def _histogram(axes: Axes, shape: Shape, colour: str) -> None:
    widths = np.diff(shape.edges)
    moving = max(shape.total * (1 - shape.zeros), 1)
    heights = shape.counts / (moving * widths)
    axes.bar(shape.edges[:-1], heights, widths, align="edge", color=colour, alpha=0.55)
    axes.set_ylim(0, 1.3 * float(heights.max() or 1))
    axes.set_xlim(float(shape.edges[0]), float(shape.edges[-1]))
    axes.grid(axis="x", visible=False)
    axes.locator_params(axis="x", nbins=4)
    axes.ticklabel_format(style="sci", scilimits=(-2, 3))
    if shape.fits:
        best = shape.fits[0]
        middle = (shape.edges[:-1] + shape.edges[1:]) / 2
        axes.plot(middle, best.density(shape.edges), color=INK, linewidth=1.2)
        note = f"{best.family}, D = {best.distance:.3f}"
    else:
        note = "no fit"
    if shape.zeros >= 0.005:
        note += f"\nbeside {100 * shape.zeros:.0f} % zeros"
    axes.text(0.98, 0.97, note, transform=axes.transAxes, ha="right", va="top", fontsize=8)


def effects(found: Distributions, per: str) -> Figure:
    """Cliff's delta of trained against random, a row per layer; a dot where Holm's p < 0.05."""
    rows = [record for record in found.layers().records() if record["per"] == per]
    names = list(dict.fromkeys(str(record["layer"]) for record in rows))
    columns = [(eps, measure) for measure in MEASURES for eps in found.settings.eps]
    values = np.zeros((len(names), len(columns)))
    sure = np.zeros_like(values, dtype=bool)
    for record in rows:
        at = names.index(str(record["layer"])), columns.index(_column(record))
        values[at] = float(record["cliffs_delta"] or 0)
        sure[at] = float(record["p_holm"] or 0) < _SURE
    with style():
        height = max(3.2, 1.6 + 0.19 * len(names))
        figure = sheet(9, height, f"Trained against random, per {_EDGE[per]}")
        axes = figure.subplots()
        image = axes.imshow(values, cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto")
        down, right = np.nonzero(sure)
        axes.scatter(right, down, s=9, color=INK, edgecolors="white", linewidths=0.6)
        axes.set_yticks(range(len(names)), [shortened(name, 40) for name in names], fontsize=7)
        axes.set_xticks(
            range(len(columns)), [f"{m.replace('-', chr(10))}\nε {e:g}" for e, m in columns]
        )
        axes.grid(visible=False)
        bar = figure.colorbar(image, ax=axes, shrink=min(1.0, 3 / height))
        bar.set_label("Cliff's delta (+: larger when trained)\ndot: p < 0.05 after Holm")
        return figure


def _column(record: dict[str, Any]) -> tuple[float, str]:
    return float(record["eps"]), str(record["measure"])
