"""`folder:`: SPLIT/CLASS/image or CLASS/image, in a directory or a zip."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from modeledit.data.tables import UNSPLIT, Table, encode, split_code
from modeledit.data.trees import Tree, open_tree
from modeledit.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


def read_folder(path: Path) -> Table:
    """Images by class folder; the classes are the folder names, sorted (as numbers if all are).

    With split folders at the top, other things beside them are an error. Files that are no images
    by their suffix are passed over; a class folder without an image is an error.
    """
    tree = open_tree(path)
    names = [name for name in tree.names() if name.lower().endswith(SUFFIXES)]
    if not names:
        raise DataError(
            f"{path} holds no image ({', '.join(SUFFIXES)}): give SPLIT/CLASS/ or CLASS/ folders"
        )
    parts = [PurePosixPath(name).parts for name in names]
    split = [split_code(part[0]) for part in parts]
    if all(code is not None for code in split):
        splits = np.array(split, dtype=np.int8)
        depth = 1
    elif all(code is None for code in split):
        splits = np.full(len(names), UNSPLIT, dtype=np.int8)
        depth = 0
    else:
        odd = parts[split.index(None)][0]
        raise DataError(f"{path} holds {odd!r} beside train/validation/test: move it away")
    _check(path, tree, parts, depth)
    codes, texts = encode(part[depth] for part in parts)
    return Table(tree.images(names), codes, texts, splits, class_names=ordered(texts))


def ordered(texts: Sequence[str]) -> tuple[str, ...]:
    """Class names in order: as numbers when all of them are, else as text."""
    if all(text.isdecimal() for text in texts):
        return tuple(sorted(texts, key=lambda text: (int(text), text)))
    return tuple(sorted(texts))


def _check(path: Path, tree: Tree, parts: Sequence[tuple[str, ...]], depth: int) -> None:
    """DataError for an image outside a class folder and for an empty class folder."""
    for part in parts:
        if len(part) < depth + 2:
            raise DataError(
                f"{'/'.join(part)} in {path} is outside the class folders: move it into one"
            )
    for level in range(1, depth + 2):
        empty = set(tree.folders(level)) - {"/".join(part[:level]) for part in parts}
        if depth:  # what else lies beside the split folders is not ours
            empty = {name for name in empty if split_code(name.partition("/")[0]) is not None}
        if empty:
            raise DataError(f"{path}: folder {min(empty)} holds no image: fill it or remove it")
