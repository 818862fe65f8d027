"""What every reader hands over: images with their labels as found, before classes are ordered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modeledit.data.stores import Store

SPLITS = ("train", "validation", "test")
UNSPLIT = -1
_ALIASES = {
    "train": 0,
    "training": 0,
    "val": 1,
    "valid": 1,
    "validation": 1,
    "test": 2,
}


@dataclass(frozen=True, eq=False)
class Table:
    """n examples.

    codes, texts: label i reads `texts[codes[i]]`. splits: (n,) position in SPLITS, or UNSPLIT for
    all. groups: (n,) of str. class_names: the order the source itself gives to its classes.
    """

    store: Store
    codes: npt.NDArray[np.int64]
    texts: tuple[str, ...]
    splits: npt.NDArray[np.int8]
    groups: npt.NDArray[np.str_] | None = None
    class_names: tuple[str, ...] | None = None


def split_code(name: str) -> int | None:
    """Position in SPLITS of a split's usual names (train, val, valid, ...), None for any other."""
    return _ALIASES.get(name.strip().lower())


def encode(labels: Iterable[str]) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    """Codes and texts of labels, texts in order of appearance."""
    seen: dict[str, int] = {}
    codes = np.fromiter((seen.setdefault(text, len(seen)) for text in labels), dtype=np.int64)
    return codes, tuple(seen)
