"""The disturbance study as tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from modeledit.eval.intervals import NORMAL, wilson
from modeledit.study.disturbances import Disturbances
from modeledit.study.output import Table

Floats = npt.NDArray[np.float64]
_PROFILE = tuple(f"{kind}{end}" for kind in ("intra", "inter") for end in ("", "_low", "_high"))


def tables(found: Disturbances) -> dict[str, Table]:
    """accuracy, profiles, correlations, classes, influential and regions."""
    variants = found.names
    matrix = zip(variants, found.clusters.correlation.tolist(), strict=True)
    made = {
        "accuracy": (
            ("variant", "images", "accuracy", "low", "high", "takes_texture"),
            _accuracies(found),
        ),
        "profiles": (("variant", "layer", *_PROFILE), _profiles(found)),
        "correlations": (("variant", *variants), ((name, *row) for name, row in matrix)),
        "classes": (("variant", "test_class", *found.class_names), _classes(found)),
        "influential": (
            ("variant", "image", "label", "rank", "training_image", "training_label", "influence"),
            _influential(found),
        ),
        "regions": (("variant", "image", "row", "column", "value"), _regions(found)),
    }
    return {name: Table(columns, tuple(rows)) for name, (columns, rows) in made.items()}


def _accuracies(found: Disturbances) -> Iterator[tuple[Any, ...]]:
    for name, answers in zip(found.names, found.answers, strict=True):
        low, high = wilson(answers.hits, answers.n) or (None, None)
        taken = None if answers.textured is None else answers.textured / answers.n
        yield name, answers.n, answers.hits / answers.n, low, high, taken


def _profiles(found: Disturbances) -> Iterator[tuple[Any, ...]]:
    for place, name in enumerate(found.names):
        for row, layer in enumerate(found.layers):
            cells = [band(kind[place, row]) for kind in (found.intra, found.inter)]
            yield name, layer, *cells[0], *cells[1]


def _classes(found: Disturbances) -> Iterator[tuple[Any, ...]]:
    for place, name in enumerate(found.names):
        for row, label in enumerate(found.class_names):
            yield name, label, *found.by_class[place, row].tolist()


def _influential(found: Disturbances) -> Iterator[tuple[Any, ...]]:
    for (place, image, rank), value in np.ndenumerate(found.top_values):
        position = int(found.top[place, image, rank])
        label = found.class_names[int(found.labels[image])]
        other = found.class_names[int(found.training.labels[position])]
        yield found.names[place], image, label, rank + 1, position, other, float(value)


def _regions(found: Disturbances) -> Iterator[tuple[Any, ...]]:
    for (place, image, row, column), value in np.ndenumerate(found.regions):
        yield found.names[place], image, row, column, float(value)


def band(values: Floats) -> tuple[float, float, float]:
    """Mean and the ends of the normal 95 % interval around it."""
    mean = float(values.mean())
    half = NORMAL * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return mean, mean - half, mean + half
