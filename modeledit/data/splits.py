"""A labelled split that loads lazily, and its cheap subsets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modeledit.data.cutting import draw
from modeledit.data.loading import Batch, Integers, Ledger, Pool, Pools, fetch
from modeledit.data.stores import Items, Unreadable
from modeledit.data.vision import check_item, labels_of
from modeledit.errors import DataError
from modeledit.runtime import Runtime

_SHUFFLE = 0x5F1E  # keeps the shuffle apart from other draws of the same seed


class Split:
    """Examples by position: labels and groups in memory, images where they are.

    labels: (n,) int64. groups: (n,) of str, or None. Subsets share everything but their positions;
    an image found unreadable in one of them counts for the whole split.
    """

    def __init__(
        self,
        name: str,
        labels: Integers,
        groups: npt.NDArray[np.str_] | None,
        pool: Pool,
        rows: Integers,
        ledger: Ledger,
    ) -> None:
        self.name = name
        self.labels = labels
        self.groups = groups
        self._pool = pool
        self._rows = rows
        self._ledger = ledger

    @classmethod
    def of(cls, dataset: Any, name: str = "data", max_unreadable: float = 0.01) -> Split:
        """Wrap a torch data set that yields (float tensor (C, H, W), int label).

        Labels come from its `targets` or `labels` where it has such a list, else every item is read
        once. An item that raises OSError is an unreadable image.
        """
        labels = labels_of(dataset, f"the {name} data set")
        check_item(dataset, f"the {name} data set")
        ledger = Ledger(name, len(labels), max_unreadable)
        return cls(name, labels, None, Pool(Items(dataset), None), np.arange(len(labels)), ledger)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({self.name}, {len(self):,} examples, {len(np.unique(self.labels))} classes)"

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Names of the images that could not be read so far, sorted."""
        return tuple(sorted(self._ledger.reasons))

    @property
    def unreadable_note(self) -> str:
        """How many of the whole split's images could not be read so far and which; "" for none."""
        return self._ledger.describe() if self._ledger.reasons else ""

    def subset(self, indices: Sequence[int] | Integers) -> Split:
        """The examples at these positions, in this order."""
        at = np.asarray(indices, dtype=np.int64)
        groups = None if self.groups is None else self.groups[at]
        rows = self._rows[at]
        return Split(self.name, self.labels[at], groups, self._pool, rows, self._ledger)

    def regrouped(self, groups: npt.NDArray[np.str_]) -> Split:
        """The same examples in other groups, (n,) of str."""
        if groups.shape != self.labels.shape:
            raise DataError(f"{len(groups)} groups for {len(self)} examples: give one each")
        return Split(self.name, self.labels, groups, self._pool, self._rows, self._ledger)

    def joined(self, other: Split) -> Split:
        """These examples and then the other's, under this name; groups where both have them."""
        pool, first, then = self._pool, self._rows, other._rows
        if other._pool is not pool:
            both = Pools((self.name, other.name), (pool, other._pool))
            pool, first, then = Pool(both, None), both.rows(0, first), both.rows(1, then)
        groups = None
        if self.groups is not None and other.groups is not None:
            groups = np.concatenate([self.groups, other.groups])
        labels = np.concatenate([self.labels, other.labels])
        ledger = Ledger(self.name, len(labels), self._ledger.allowed)
        return Split(self.name, labels, groups, pool, np.concatenate([first, then]), ledger)

    def divided(self, share: float, seed: int) -> tuple[Split, Split]:
        """A share of the examples, by label and group in proportion, and the others, in their
        order. Every label of every group keeps one of the others before it gives any."""
        cells = self.labels
        if self.groups is not None:
            _, groups = np.unique(self.groups, return_inverse=True)
            cells = self.labels * (1 + int(groups.max(initial=0))) + groups
        left = len(self) - round(share * len(self)) if 0 < share < 1 else 0
        if not 0 < left < len(self):
            raise DataError(
                f"a share of {share:g} of {len(self)} {self.name} images leaves one side empty: "
                "give one between 0 and 1 that takes an image and leaves one"
            )
        others = draw(cells, left, (seed, 5))
        return self.subset(np.delete(np.arange(len(self)), others)), self.subset(others)

    def where(self, mask: npt.NDArray[np.bool_]) -> Split:
        """The examples where the mask (n,) is True."""
        if mask.shape != self.labels.shape:
            raise DataError(f"a mask of shape {mask.shape} does not fit {len(self)} examples")
        return self.subset(np.flatnonzero(mask))

    def sample(self, count: int, seed: int) -> Split:
        """`count` examples, stratified by class, in their order; all of them if there are fewer."""
        if count < 1:
            raise DataError(f"a sample of {count} examples was asked for: give 1 or more")
        return self if count >= len(self) else self.subset(draw(self.labels, count, (seed, 3)))

    def batches(self, runtime: Runtime, *, shuffle: bool = False, salt: int = 0) -> Iterator[Batch]:
        """Batches on `runtime.device`, in order or in an order that seed and salt decide.

        Unreadable images are left out, so a batch may be smaller than `runtime.batch_size`. Raises
        DataError when too many are, or all.
        """
        order = np.arange(len(self))
        if shuffle:
            generator = runtime.generator(_SHUFFLE, salt)
            order = torch.randperm(len(self), generator=generator).numpy()
        starts = range(0, len(self), runtime.batch_size)
        chunks = [order[start : start + runtime.batch_size] for start in starts]
        found = fetch(self._pool, [self._rows[chunk] for chunk in chunks], runtime)
        some = not chunks
        for chunk, fetched in zip(chunks, found, strict=True):
            self._ledger.record(fetched.failed)
            if fetched.images is not None:
                some = True
                yield self._batch(fetched.images, chunk[fetched.kept], runtime.device)
        if not some:
            raise DataError(f"none of {len(self)} images could be read: {self._ledger.describe()}")

    def _batch(self, images: Tensor, positions: Integers, device: torch.device) -> Batch:
        parts = (images, torch.from_numpy(self.labels[positions]), torch.from_numpy(positions))
        if device.type == "cuda":  # a copy from pinned memory does not hold up the consumer
            parts = tuple(part.pin_memory() for part in parts)  # type: ignore[assignment]
        return Batch(*(part.to(device, non_blocking=True) for part in parts))

    def example(self) -> Tensor:
        """(1, C, H, W) float32, on the CPU: the first image that can be read."""
        for row in self._rows.tolist():
            try:
                return self._pool.tensor(row)[None]
            except Unreadable as error:
                self._ledger.record([(self._pool.store.name(row), str(error))])
        raise DataError(f"the {self.name} split has no image that can be read: give at least one")

    def fingerprint(self) -> Iterator[str]:
        """One line per example: split, name, label, group, and what changes when the image does."""
        store = self._pool.store
        for position, row in enumerate(self._rows.tolist()):
            group = None if self.groups is None else str(self.groups[position])
            label = int(self.labels[position])
            yield json.dumps([self.name, store.name(row), label, group, store.stamp(row)])
