"""From rows to batches: in order, ahead of the consumer, and the same for any number of workers."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from modeledit.data.stores import Store, Unreadable
from modeledit.errors import DataError
from modeledit.runtime import Runtime

Integers = npt.NDArray[np.int64]
Preprocessing = Callable[[Image.Image], Tensor]
_THREADS = 4
_SHOWN = 5


class Batch(NamedTuple):
    """images: (B, C, H, W) float32. labels: (B,) int64. indices: (B,) int64, into the split."""

    images: Tensor
    labels: Tensor
    indices: Tensor


class Fetched(NamedTuple):
    """images: (b, C, H, W), None when none could be read. kept: which of those asked for.

    failed: (name, reason) of the others.
    """

    images: Tensor | None
    kept: list[int]
    failed: list[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class Pool(Dataset[Fetched]):
    """All images of a source, as tensors. preprocessing: None where the store yields tensors."""

    store: Store
    preprocessing: Preprocessing | None

    def __getitem__(self, rows: Sequence[int]) -> Fetched:
        tensors, kept, failed = [], [], []
        for position, row in enumerate(rows):
            try:
                tensors.append(self.tensor(row))
                kept.append(position)
            except Unreadable as error:
                failed.append((self.store.name(row), str(error)))
        return Fetched(torch.stack(tensors) if tensors else None, kept, failed)

    def tensor(self, row: int) -> Tensor:
        """(C, H, W) float32. Raises Unreadable."""
        image = self.store.load(row)
        if isinstance(image, Tensor):
            return image.to(torch.float32)
        if self.preprocessing is None:
            raise Unreadable(f"a {type(image).__name__}, not a tensor")
        return self.preprocessing(image)


@dataclass(frozen=True, eq=False)
class Pools:
    """Several named pools as a store: row r of pool p of P is row r P + p."""

    names: tuple[str, ...]
    pools: tuple[Pool, ...]

    def rows(self, pool: int, rows: Integers) -> Integers:
        """What a pool's rows, (n,) int64, are called here."""
        return rows * len(self.pools) + pool

    def load(self, row: int) -> Tensor:
        own, pool = divmod(row, len(self.pools))
        return self.pools[pool].tensor(own)

    def name(self, row: int) -> str:
        own, pool = divmod(row, len(self.pools))
        return self.names[pool] + self.pools[pool].store.name(own)

    def stamp(self, row: int) -> str:
        own, pool = divmod(row, len(self.pools))
        return self.pools[pool].store.stamp(own)


@dataclass
class Ledger:
    """The unreadable images of one split, shared by its subsets.

    total: images of the split. allowed: share of them that may be unreadable.
    """

    split: str
    total: int
    allowed: float
    reasons: dict[str, str] = field(default_factory=dict)

    def record(self, failed: Sequence[tuple[str, str]]) -> None:
        """DataError as soon as the share is beyond doubt above what is allowed."""
        self.reasons.update(failed)
        # The decimal as written: 0.29 of 100 images allows 29, not 28.
        if len(self.reasons) > Fraction(str(self.allowed)) * self.total:
            raise DataError(f"{self.describe()}; mend or remove them, or raise --max-unreadable")

    def describe(self) -> str:
        count, names = len(self.reasons), sorted(self.reasons)
        more = ", ..." if count > _SHOWN else ""
        return (
            f"{count} of {self.total} images of the {self.split} split cannot be read "
            f"({count / self.total:.1%}, allowed {self.allowed:.1%}): "
            f"{', '.join(names[:_SHOWN])}{more} ({names[0]}: {self.reasons[names[0]]})"
        )


def fetch(pool: Pool, chunks: Sequence[Integers], runtime: Runtime) -> Iterator[Fetched]:
    """`pool[chunk]` for every chunk, in order.

    With `runtime.workers` processes, or else a few threads of this one; both read a few chunks
    ahead, so memory does not depend on how many there are.
    """
    if runtime.workers:
        # Without its own generator a DataLoader draws its seed from the global one.
        return iter(
            DataLoader(
                pool,
                sampler=[chunk.tolist() for chunk in chunks],
                batch_size=None,
                num_workers=runtime.workers,
                collate_fn=_as_is,
                generator=runtime.generator(),
            )
        )
    return _by_threads(pool, chunks)


def _by_threads(pool: Pool, chunks: Sequence[Integers]) -> Iterator[Fetched]:
    threads = min(_THREADS, os.cpu_count() or 1, len(chunks))
    executor = ThreadPoolExecutor(threads, thread_name_prefix="modeledit-data")
    try:
        waiting = iter(chunks)
        ahead = deque(
            executor.submit(pool.__getitem__, c.tolist()) for c in islice(waiting, threads + 1)
        )
        while ahead:
            done = ahead.popleft().result()
            ahead.extend(executor.submit(pool.__getitem__, c.tolist()) for c in islice(waiting, 1))
            yield done
    finally:
        executor.shutdown(cancel_futures=True)


def _as_is(fetched: Any) -> Any:
    return fetched
