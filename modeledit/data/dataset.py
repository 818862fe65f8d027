"""Train, validation and test together, from one specification."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modeledit.data.arrays import read_idx, read_npz
from modeledit.data.classes import resolve
from modeledit.data.cutting import complete, draw
from modeledit.data.folder import read_folder
from modeledit.data.loading import Integers, Ledger, Pool, Preprocessing
from modeledit.data.manifest import MANIFEST, OPTIONAL, read_manifest
from modeledit.data.splits import Split
from modeledit.data.tables import SPLITS, Table
from modeledit.data.trees import open_tree
from modeledit.data.vision import class_names_of, read_torchvision
from modeledit.errors import DataError

KINDS = ("folder", "csv", "npz", "idx", "torchvision")


@dataclass(frozen=True, eq=False)
class Data:
    """Three disjoint splits: score on train, choose on validation, report on test.

    notes: what was cut, in words. validation_is_training: validation comes from data that the
    model was trained on, so losses measured on it are too small.
    """

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    spec: str = ""
    notes: tuple[str, ...] = ()
    validation_is_training: bool = False

    @classmethod
    def of(
        cls, train: Any, validation: Any, test: Any, class_names: Sequence[str] | None = None
    ) -> Data:
        """From three torch data sets that yield (float tensor (C, H, W), int label).

        class_names default to the training set's own `classes`, else to the labels.
        """
        sets = (train, validation, test)
        parts = [Split.of(part, name) for part, name in zip(sets, SPLITS, strict=True)]
        count = 1 + max(int(part.labels.max()) for part in parts)
        names = tuple(class_names or class_names_of(train) or map(str, range(count)))
        if len(names) < count:
            raise DataError(f"{len(names)} class names for labels up to {count - 1}: name {count}")
        return cls(parts[0], parts[1], parts[2], names, "torch data sets")

    def held_out(self, share: float, seed: int = 0) -> Data:
        """A share of the training images, more than 0 and less than 1, moved to validation.

        Stratified by label and group. The fewer score, the more decide how much is edited. Raises
        DataError.
        """
        moved, train = self.train.divided(share, seed)
        note = (
            f"{len(moved):,} of {len(self.train):,} training images were held out from scoring, "
            f"for the search beside {len(self.validation):,} validation images (seed {seed}); if "
            "the model was trained on them, losses look smaller there"
        )
        both = self.validation.joined(moved)
        return replace(self, train=train, validation=both, notes=(*self.notes, note))

    def unreadable_notes(self) -> tuple[str, ...]:
        """One line per split that has unreadable images, of those loaded so far."""
        notes = (part.unreadable_note for part in (self.train, self.validation, self.test))
        return tuple(note for note in notes if note)

    def digest(self) -> str:
        """sha256 over classes and examples: names, labels, groups, and sizes, CRCs or pixels.

        The same on every machine that has the same data; images in files are not read for it. Of a
        torch data set 64 items are.
        """
        parts = (self.train, self.validation, self.test)
        lines = sorted(line for split in parts for line in split.fingerprint())
        return hashlib.sha256("\n".join([*self.class_names, "", *lines]).encode()).hexdigest()


def load_data(
    spec: str,
    preprocessing: Preprocessing,
    *,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    group_column: Sequence[str] = OPTIONAL,
    limit: int | None = None,
    seed: int = 0,
    max_unreadable: float = 0.01,
) -> Data:
    """Data from `folder:DIR`, `csv:FILE`, `npz:FILE`, `idx:DIR` or `torchvision:NAME[@ROOT]`.

    A .zip stands for the directory it holds. Splits that are missing are cut, and `notes` says so.
    class_names: the model's order; num_classes: what its count must be. limit: images per split,
    stratified. max_unreadable: share of a split, 0 to 1. Raises DataError.
    """
    if not 0 <= max_unreadable <= 1:
        raise DataError(f"--max-unreadable {max_unreadable} is no share: give 0 to 1")
    if limit is not None and limit < 1:
        raise DataError(f"--limit {limit} leaves no images: give 1 or more per split")
    table = _read(spec, group_column)
    names, labels = resolve(table, class_names, num_classes)
    cut = complete(table.splits, labels, seed)
    pool = Pool(table.store, preprocessing)

    def split(name: str) -> Split:
        rows: Integers = cut.rows[name]
        if limit is not None:
            rows = rows[draw(labels[rows], limit, (seed, 4))]
        groups = None if table.groups is None else table.groups[rows]
        ledger = Ledger(name, len(rows), max_unreadable)
        return Split(name, labels[rows], groups, pool, rows, ledger)

    train, validation, test = map(split, SPLITS)
    return Data(train, validation, test, names, spec, cut.notes, cut.validation_is_training)


def _read(spec: str, group_column: Sequence[str]) -> Table:
    kind, place = _kind(spec)
    if kind != "csv" and tuple(group_column) not in (OPTIONAL, ()):
        raise DataError(f"{kind}: has no column {group_column[0]!r}: groups need a csv: manifest")
    path = Path(place).expanduser()
    try:
        if kind == "folder":
            return read_folder(path)
        if kind == "csv":
            return read_manifest(path, group_column)
        if kind == "npz":
            return read_npz(path)
        return read_idx(path) if kind == "idx" else read_torchvision(place)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{place} cannot be read: {error}") from error


def _kind(spec: str) -> tuple[str, str]:
    """Kind and place; for a bare path the kind is guessed from what is there."""
    kind, colon, place = spec.partition(":")
    if colon and kind in KINDS and place:
        return kind, place
    path = Path(spec).expanduser()
    if not path.exists():
        known = ", ".join(f"{kind}:" for kind in KINDS)
        raise DataError(f"data {spec!r} is neither a path that is there nor one of {known}")
    if path.suffix.lower() in (".csv", ".npz"):
        return path.suffix[1:].lower(), spec
    return ("csv" if open_tree(path).holds(MANIFEST) else "folder"), spec
