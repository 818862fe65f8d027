"""Where single images come from: files, members of a zip, rows of an array, items of a data set.

A store is cheap to pickle and safe to share between threads and processes: it opens what it reads
on first use, in the process that uses it, and keeps no file position.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import struct
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from modeledit.data.mapped import Mapped

Bytes = npt.NDArray[np.bytes_]
Integers = npt.NDArray[np.int64]
_SAMPLED = 64  # items of a data set that enter its digest
_LOCAL_HEADER = 30  # bytes, before the member's name


class Unreadable(Exception):
    """One image that cannot be had; the message is the reason."""


class Store(Protocol):
    """Images by row."""

    def load(self, row: int) -> Image.Image | Tensor:
        """The decoded image. Raises Unreadable."""

    def name(self, row: int) -> str:
        """What to call it in a message and in the digest; the same on every machine."""

    def stamp(self, row: int) -> str:
        """What changes when the image does, without decoding it."""


def pack(names: Iterable[str]) -> Bytes:
    """(n,) fixed-width UTF-8: a tenth of the memory of as many strings."""
    return np.array([name.encode("utf-8", "surrogateescape") for name in names], dtype=np.bytes_)


def unpack(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def decode(data: bytes) -> Image.Image:
    """The image in its own mode. Raises Unreadable."""
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    except Exception as error:  # PIL's decoders fail in a dozen ways, SyntaxError among them
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else str(error)
        raise Unreadable(reason) from error
    return image


@dataclass(frozen=True, eq=False)
class DiskFiles:
    """Image files below a directory."""

    root: Path
    names: Bytes

    def load(self, row: int) -> Image.Image:
        try:
            data = (self.root / self.name(row)).read_bytes()
        except OSError as error:
            raise Unreadable(error.strerror or str(error)) from error
        return decode(data)

    def name(self, row: int) -> str:
        return unpack(self.names[row])

    def stamp(self, row: int) -> str:
        try:
            return str((self.root / self.name(row)).stat().st_size)
        except OSError:
            return "missing"


@dataclass(eq=False)
class ZipFiles:
    """Members of a zip, stored or deflated, read through a memory map.

    offset: of the local header, -1 for a name that the archive does not hold. packed, size: bytes.
    """

    path: Path
    names: Bytes
    offset: Integers
    packed: Integers
    size: Integers
    crc: Integers
    method: Integers
    _map: mmap.mmap | None = None

    def load(self, row: int) -> Image.Image:
        return decode(self.read(row))

    def read(self, row: int) -> bytes:
        """The member's bytes, checked against its CRC. Raises Unreadable."""
        if self.offset[row] < 0:
            raise Unreadable(f"not in {self.path.name}")
        start, packed = int(self.offset[row]), int(self.packed[row])
        archive = self._archive()
        try:
            name, extra = struct.unpack_from("<HH", archive, start + 26)
            start += _LOCAL_HEADER + name + extra
            data = archive[start : start + packed]
            data = zlib.decompress(data, -zlib.MAX_WBITS) if self.method[row] else data
        except (struct.error, zlib.error) as error:
            raise Unreadable(f"damaged in {self.path.name}: {error}") from error
        if zlib.crc32(data) != self.crc[row]:
            raise Unreadable(f"damaged in {self.path.name}: checksum differs")
        return data

    def _archive(self) -> mmap.mmap:
        if self._map is None:
            with self.path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._map

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_map": None}

    def name(self, row: int) -> str:
        return unpack(self.names[row])

    def stamp(self, row: int) -> str:
        return "missing" if self.offset[row] < 0 else f"{self.size[row]} {self.crc[row]:08x}"


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Rows of memory-mapped uint8 arrays, one behind the other.

    parts: (name, array of shape (n, H, W), (n, H, W, C) or (n, C, H, W)).
    """

    parts: Sequence[tuple[str, Mapped]]

    def load(self, row: int) -> Image.Image:
        return Image.fromarray(self._pixels(row))

    def _pixels(self, row: int) -> npt.NDArray[np.uint8]:
        _, array, index = self._place(row)
        pixels = array.array[index]
        if pixels.ndim == 3 and pixels.shape[-1] not in (1, 3, 4):
            pixels = np.moveaxis(pixels, 0, -1)
        if pixels.ndim == 3 and pixels.shape[-1] == 1:
            pixels = pixels[..., 0]
        return np.ascontiguousarray(pixels)

    def _place(self, row: int) -> tuple[str, Mapped, int]:
        for name, array in self.parts:
            if row < array.shape[0]:
                return name, array, row
            row -= array.shape[0]
        raise IndexError(row)

    def name(self, row: int) -> str:
        name, _, index = self._place(row)
        return f"{name}[{index}]"

    def stamp(self, row: int) -> str:
        pixels = self._pixels(row)
        return f"{pixels.shape} {hashlib.sha256(pixels.tobytes()).hexdigest()}"


@dataclass(frozen=True, eq=False)
class Items:
    """Items of a torch data set that yields (image or tensor, label).

    Reading all of a data set may cost hours, so the stamps cover 64 items, evenly spaced.
    """

    dataset: Any

    def load(self, row: int) -> Image.Image | Tensor:
        try:
            return self.dataset[row][0]  # type: ignore[no-any-return]
        except OSError as error:
            raise Unreadable(str(error).partition("\n")[0]) from error

    def name(self, row: int) -> str:
        return f"[{row}]"

    def stamp(self, row: int) -> str:
        if row % max(1, len(self.dataset) // _SAMPLED):
            return ""
        try:
            values = np.asarray(self.load(row))
        except Unreadable:
            return "unreadable"
        return f"{values.shape} {hashlib.sha256(values.tobytes()).hexdigest()}"
