"""The disturbance study, drawn: pictures, clusters, layer profiles, classes, regions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from modeledit.study.disturbance_tables import band
from modeledit.study.disturbances import Disturbances
from modeledit.study.drawing import COLOURS, DIVERGING, GREY, INK, grid, sheet, shortened, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

EXAMPLES = 6  # pictures on the page of examples
COLUMNS = 4
Floats = npt.NDArray[np.float64]


def figures(found: Disturbances) -> dict[str, Figure]:
    """{name: page}; one page of regions and influential images for each image shown."""
    pages = {
        "examples": examples(found),
        "clusters": clusters(found),
        "profiles": profiles(found),
        "classes": classes(found),
    }
    for image in range(found.regions.shape[1]):
        pages[f"image-{image}"] = detail(found, image)
    return pages


def examples(found: Disturbances) -> Figure:
    """A row per variant, a column per test picture, what was predicted below each."""
    count = min(EXAMPLES, len(found.labels))
    rows = len(found.variants)
    with style():
        figure = sheet(2.0 + 1.15 * count, 0.5 + 1.4 * rows, "What the network is shown")
        panels = grid(figure, rows, count)
        for row, variant, answers in zip(panels, found.variants, found.answers, strict=True):
            for image, axes in enumerate(row):
                _picture(axes, variant.pixels[image])
                predicted = int(answers.predicted[image])
                right = predicted == int(found.labels[image])
                axes.set_xlabel(
                    shortened(found.class_names[predicted], 14),
                    color=INK if right else COLOURS[1], fontsize=8, labelpad=2,
                    weight="normal" if right else "bold",
                )  # fmt: skip
                if variant is found.variants[0]:
                    axes.set_title(shortened(found.class_names[int(found.labels[image])], 14))
            accuracy = f"{100 * answers.hits / answers.n:.0f} % right"
            row[0].set_ylabel(
                f"{variant.name}\n{accuracy}", rotation=0, ha="right", va="center", labelpad=6
            )
        return figure


def _picture(axes: Axes, pixels: Tensor) -> None:
    array = pixels.permute(1, 2, 0).numpy()
    if array.shape[2] == 1:
        axes.imshow(array[:, :, 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        axes.imshow(array, interpolation="nearest")
    _bare(axes)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def clusters(found: Disturbances) -> Figure:
    """The dendrogram of the variants and the correlations of their layer profiles."""
    from scipy.cluster.hierarchy import dendrogram

    made = found.clusters
    words = "1 - correlation" if found.settings.distance == "correlation" else "Euclidean distance"
    with style():
        height = 2.2 + 0.42 * len(made.names)
        figure = sheet(11, height, "Variants by the influence of each layer")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
        dendrogram(
            made.linkage, labels=list(made.names), orientation="left", ax=left,
            color_threshold=0, above_threshold_color=COLOURS[0],
        )  # fmt: skip
        left.set_xlabel(f"{words}, average linkage")
        left.tick_params(axis="y", labelsize=9)
        left.grid(axis="y", visible=False)
        order = list(made.order)[::-1]  # from the top down, like the dendrogram
        matrix = made.correlation[np.ix_(order, order)]
        image = right.imshow(matrix, cmap=DIVERGING, vmin=-1, vmax=1)
        for (row, column), value in np.ndenumerate(matrix):
            colour = "white" if abs(value) > 0.6 else INK
            right.text(
                column, row, f"{value:.3f}", ha="center", va="center", color=colour, fontsize=7
            )
        names = [made.names[place] for place in order]
        right.set_xticks(range(len(names)), names, rotation=40, ha="right")
        right.set_yticks(range(len(names)), names)
        right.grid(visible=False)
        figure.colorbar(image, ax=right, shrink=0.8, label="correlation of layer profiles")
        return figure


def profiles(found: Disturbances) -> Figure:
    """A panel per variant: mean influence by layer with 95 % bands; the original in grey."""
    count = len(found.variants)
    rows = -(-count // COLUMNS)
    at = np.arange(len(found.layers))
    with style():
        figure = sheet(12, 1.2 + 2.5 * rows, "Influence by layer")
        panels = [a for row in grid(figure, rows, min(COLUMNS, count), sharex=True) for a in row]
        original = found.intra[0].mean(1)
        for place, (axes, name) in enumerate(zip(panels, found.names, strict=False)):
            axes.set_title(name, weight="bold")
            axes.axhline(0, color=GREY, linewidth=0.8)
            for values, colour, words in (
                (found.intra[place], COLOURS[0], "training images of its class"),
                (found.inter[place], COLOURS[1], "of other classes"),
            ):
                bands = np.array([band(row) for row in values])
                axes.plot(at, bands[:, 0], color=colour, linewidth=1.4, label=words)
                axes.fill_between(
                    at, bands[:, 1], bands[:, 2], color=colour, alpha=0.2, linewidth=0
                )
            if place:
                axes.plot(at, original, ":", color=INK, linewidth=1.1, label="its class, original")
            axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
            axes.set_xlim(0, len(at) - 1)
        _below(panels, count)
        figure.supxlabel(
            f"layer, from {found.layers[0]} (0) to {found.layers[-1]} ({len(at) - 1})", fontsize=9
        )
        figure.supylabel("mean influence (+: the training image helps)", fontsize=9)
        handles, labels = panels[min(1, count - 1)].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=3)
        return figure


def classes(found: Disturbances) -> Figure:
    """A matrix per variant: mean total influence of training classes on test classes."""
    count = len(found.variants)
    rows = -(-count // COLUMNS)
    names = [shortened(name, 12) for name in found.class_names]
    with style():
        title = "Influence by class, each matrix over its largest entry"
        figure = sheet(12, 1.4 + 2.9 * rows, title)
        panels = [
            a
            for row in grid(figure, rows, min(COLUMNS, count), sharex=True, sharey=True)
            for a in row
        ]
        image = None
        for axes, name, matrix in zip(panels, found.names, found.by_class, strict=False):
            most = float(np.nanmax(np.abs(matrix))) or 1.0
            image = axes.imshow(matrix / most, cmap=DIVERGING, vmin=-1, vmax=1)
            axes.set_title(f"{name} (largest {most:.2g})")
            axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=7)
            axes.set_yticks(range(len(names)), names, fontsize=7)
            axes.grid(visible=False)
        _below(panels, count)
        figure.supylabel("class of the test image", fontsize=9)
        figure.supxlabel("class of the training images", fontsize=9)
        if image is not None:
            figure.colorbar(image, ax=panels, shrink=0.5, label="mean influence (+: helps)")
        return figure


def _below(panels: list[Axes], count: int) -> None:
    """Nothing where no variant is, and numbers below the panels above it."""
    for place, axes in enumerate(panels):
        if place >= count:
            axes.set_axis_off()
        elif place + COLUMNS >= count:
            axes.tick_params(labelbottom=True)


def detail(found: Disturbances, image: int) -> Figure:
    """A row per variant: the picture, the regions that mattered, the training images behind it."""
    rows, top = len(found.variants), found.settings.top
    label = found.class_names[int(found.labels[image])]
    with style():
        figure = sheet(
            4.6 + 1.3 * top, 0.9 + 1.45 * rows,
            f"Test image {image} ({label}): regions and training images behind its prediction",
        )  # fmt: skip
        panels = grid(figure, rows, 2 + top)
        for place, (row, variant) in enumerate(zip(panels, found.variants, strict=True)):
            _picture(row[0], variant.pixels[image])
            predicted = found.class_names[int(found.answers[place].predicted[image])]
            row[0].set_xlabel(shortened(predicted, 16), fontsize=8, labelpad=2)
            row[0].set_ylabel(variant.name, rotation=0, ha="right", va="center", labelpad=6)
            _regions(row[1], variant.pixels[image], found.regions[place, image], label)
            for rank, axes in enumerate(row[2:]):
                position = int(found.top[place, image, rank])
                _picture(axes, found.training.pixels[position])
                name = found.class_names[int(found.training.labels[position])]
                value = found.top_values[place, image, rank]
                axes.set_xlabel(f"{shortened(name, 12)}\n{value:+.3g}", fontsize=8, labelpad=2)
        for axes, words in zip(
            panels[0],
            ("predicted", "regions", *(f"helps {r + 1}" for r in range(top))),
            strict=True,
        ):
            axes.set_title(words)
        return figure


def _regions(axes: Axes, pixels: Tensor, cells: Floats, label: str) -> None:
    """Cells over the grey picture; red speaks for the label, blue against it."""
    height, width = pixels.shape[1:]
    axes.imshow(pixels.mean(0).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    most = float(np.abs(cells).max()) or 1.0
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(cells, cmap=DIVERGING, vmin=-most, vmax=most, alpha=0.6, extent=extent,
                interpolation="nearest")  # fmt: skip
    _bare(axes)
    axes.set_xlabel(f"for {shortened(label, 10)}: {cells.sum():+.2f}", fontsize=8, labelpad=2)
