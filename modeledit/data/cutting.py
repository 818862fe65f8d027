"""Seeded, stratified draws, and the splits that a source lacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modeledit.data.tables import SPLITS
from modeledit.errors import DataError

Rows = npt.NDArray[np.int64]
_MOST_VALIDATION = 5000


@dataclass(frozen=True, eq=False)
class Cut:
    """Ascending rows of each split; notes say what was cut, in words."""

    rows: Mapping[str, Rows]
    notes: tuple[str, ...] = ()
    validation_is_training: bool = False


def draw(labels: Rows, count: int, seed: tuple[int, ...]) -> Rows:
    """Ascending positions of `count` examples, by class in proportion (Webster's divisors).

    Every class gets one before any gets a second, so a rare class is not lost. Within a class, and
    between classes with an equal claim to the last places, the seed decides.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]  # by class, at random within it
    _, first, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    rank = np.arange(len(labels)) - np.repeat(first, sizes)
    size = np.repeat(sizes, sizes)
    # A first place beats any second one; among them, the larger class goes ahead.
    claim = np.where(rank == 0, -size, (rank + 0.5) / size)
    chosen = np.lexsort((generator.permutation(len(labels)), claim))[:count]
    return np.sort(order[chosen])


def complete(splits: npt.NDArray[np.int8], labels: Rows, seed: int) -> Cut:
    """The three splits; those that `splits` lacks are cut from those it has.

    train + test: validation is 10 % of train, 5,000 at most. One split: 60/20/20. Without train,
    scoring takes half of validation; without test, it takes half of validation as well.
    """
    rows = {
        name: np.flatnonzero(splits == code) for code, name in enumerate(SPLITS) if code in splits
    }
    if len(rows) == len(SPLITS):
        return Cut(rows)
    if len(rows) <= 1:
        return _cut_one(next(iter(rows), None), labels, seed)
    new = next(name for name in SPLITS if name not in rows)
    source = "train" if new == "validation" else "validation"
    total = len(rows[source])
    count = min(-(-total // 10), _MOST_VALIDATION) if source == "train" else total // 2
    if total < 2:
        raise DataError(f"the {source} split has {total} image: too few to cut {new} from it")
    taken, rest = _divide(rows[source], labels, count, (seed, 1))
    note = f"no {new} split: cut from {source}, {count:,} of {total:,} images (seed {seed})"
    return Cut({**rows, new: taken, source: rest}, (note,), source == "train")


def _cut_one(name: str | None, labels: Rows, seed: int) -> Cut:
    total = len(labels)
    count = total // 5
    if not count:
        raise DataError(f"one split of {total} images is too few to cut into three: give 5 or more")
    everything = np.arange(total)
    train, rest = _divide(everything, labels, total - 2 * count, (seed, 1))
    test, validation = _divide(rest, labels, count, (seed, 2))
    sizes = f"{len(train):,} train, {count:,} validation and {count:,} test images (seed {seed})"
    note = f"one split{f' ({name})' if name else ''}, cut into {sizes}"
    held_out = name in ("validation", "test")
    if not held_out:
        note += "; if the model was trained on this data, its numbers on test are optimistic"
    cut = {"train": train, "validation": validation, "test": test}
    return Cut(cut, (note,), not held_out)


def _divide(rows: Rows, labels: Rows, count: int, seed: tuple[int, ...]) -> tuple[Rows, Rows]:
    """`count` of the rows, stratified, and the others; both ascending."""
    taken = draw(labels[rows], count, seed)
    return rows[taken], np.delete(rows, taken)
