"""From labels as found to the model's class order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from modeledit.data.tables import SPLITS, Table
from modeledit.errors import DataError

Labels = npt.NDArray[np.int64]
_SHOWN = 5
_MOST_CLASSES = 1_000_000


def resolve(
    table: Table, class_names: Sequence[str] | None, num_classes: int | None
) -> tuple[tuple[str, ...], Labels]:
    """Class names in order and the label of each example.

    The order is the caller's, else the source's own, else the integers that the labels are, else
    the labels sorted. Against a given order a label is one of the names, or an index into them.
    """
    names = tuple(class_names) if class_names is not None else table.class_names
    if names is None:
        names = _own_names(table.texts)
    if len(set(names)) != len(names):
        raise DataError(f"class names must differ: {', '.join(names)}")
    if num_classes is not None and len(names) != num_classes:
        source = "--class-names lists" if class_names is not None else "the data has"
        raise DataError(
            f"{source} {len(names)} classes, the model has {num_classes} outputs: they must agree "
            "(--class-names gives the model's classes in order)"
        )
    labels = _indices(table.texts, names)[table.codes]
    if class_names is None:
        _check_train_has_all(table, labels, names)
    return names, labels


def _own_names(texts: Sequence[str]) -> tuple[str, ...]:
    if all(_is_index(text.removeprefix("-")) for text in texts):
        numbers = [int(text) for text in texts]
        odd = [n for n in (min(numbers), max(numbers)) if not 0 <= n < _MOST_CLASSES]
        if odd:
            raise DataError(f"label {odd[0]} is no class number: count from 0, or use names")
        return tuple(str(k) for k in range(max(numbers) + 1))
    return tuple(sorted(texts))


def _indices(texts: Sequence[str], names: Sequence[str]) -> Labels:
    """(len(texts),) position of each label among the names."""
    place = {name: k for k, name in enumerate(names)}
    if not all(text in place for text in texts) and all(_is_index(text) for text in texts):
        place = {text: int(text) for text in texts if int(text) < len(names)}
    unknown = sorted(set(texts) - set(place))
    if unknown:
        raise DataError(
            f"label {_some(unknown)} is not among the {len(names)} classes: "
            f"use {_some(names)} or numbers from 0 to {len(names) - 1}, or give the labels in the "
            "model's order with --class-names"
        )
    return np.array([place[text] for text in texts], dtype=np.int64)


def _check_train_has_all(table: Table, labels: Labels, names: Sequence[str]) -> None:
    train = np.unique(labels[table.splits == 0])
    for code in (1, 2):
        missing = np.setdiff1d(labels[table.splits == code], train)
        if len(train) and len(missing):
            raise DataError(
                f"the {SPLITS[code]} split has the class {_some([names[k] for k in missing])}, "
                "which train lacks: mend the labels, or give the model's --class-names"
            )


def _is_index(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
