"""Arrays that live in a file and not in memory, temporary files included."""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from modeledit.errors import DataError

_CHUNK = 1 << 20


class Readable(Protocol):
    """What bytes can be read from: a file, a member of a zip, a gzip stream."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(eq=False)
class Mapped:
    """A uint8 array of `shape`, `offset` bytes into a file; mapped on first use in each process.

    temporary: the file goes when this object does, in the process that made it (a worker's copy
    must not take it away), or when that process ends.
    """

    path: Path
    shape: tuple[int, ...]
    offset: int = 0
    order: Literal["C", "F"] = "C"
    temporary: bool = False

    def __post_init__(self) -> None:
        self._array: npt.NDArray[np.uint8] | None = None
        if self.temporary:
            weakref.finalize(self, _remove, self.path, os.getpid())

    @property
    def array(self) -> npt.NDArray[np.uint8]:
        if self._array is None:
            self._array = np.memmap(
                self.path, np.uint8, "r", self.offset, shape=self.shape, order=self.order
            )
        return self._array

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_array": None}


def spool(
    source: Readable, shape: tuple[int, ...], what: str, order: Literal["C", "F"] = "C"
) -> Mapped:
    """Stream the bytes of a uint8 array into a temporary file, a megabyte at a time.

    Fewer bytes than the shape asks for, or more, are a DataError that names `what`.
    """
    expected = math.prod(shape)
    handle, name = tempfile.mkstemp(prefix="modeledit-", suffix=".u8")
    mapped = Mapped(Path(name), shape, order=order, temporary=True)
    copied = 0
    with os.fdopen(handle, "wb") as target:
        while chunk := source.read(min(_CHUNK, expected + 1 - copied)):
            target.write(chunk)
            copied += len(chunk)
    check_size(what, expected, copied)
    return mapped


def check_size(what: str, expected: int, found: int) -> None:
    """DataError unless a file holds as many bytes of pixels or labels as its header says."""
    if found != expected:
        came = "more" if found > expected else f"{found:,}"
        raise DataError(f"{what} is damaged: {expected:,} bytes expected, {came} found: replace it")


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:
        path.unlink(missing_ok=True)
