"""A directory or the zip that stands for one."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from modeledit.data.stores import DiskFiles, Store, ZipFiles, pack
from modeledit.errors import DataError

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1
_SPLIT_FOLDERS = ("train", "training", "val", "valid", "validation", "test")


class Tree(Protocol):
    """Files below one root, named by relative path with forward slashes."""

    def names(self) -> list[str]:
        """Every file, sorted; hidden ones and the leavings of macOS are left out."""

    def folders(self, level: int) -> list[str]:
        """Folders so many levels below the root, empty ones too."""

    def holds(self, name: str) -> bool:
        """Whether there is such a file."""

    def open(self, name: str) -> IO[bytes]:
        """For reading from start to end."""

    def images(self, names: Sequence[str]) -> Store:
        """A store of these files, in this order; a missing one fails when it is loaded."""


def open_tree(path: Path) -> Tree:
    """The tree at `path`: a directory or a .zip."""
    if path.is_dir():
        return DiskTree(path)
    if not path.exists():
        raise DataError(f"there is no {path}: give a directory or a .zip")
    if path.suffix.lower() != ".zip":
        raise DataError(f"{path} is neither a directory nor a .zip: give one of these")
    return ZipTree.read(path)


@dataclass(frozen=True)
class DiskTree:
    root: Path

    def names(self) -> list[str]:
        found = []
        # Links are followed, as torchvision's ImageFolder does: large sets are often linked.
        for folder, below, files in os.walk(self.root, followlinks=True):
            below[:] = sorted(name for name in below if _visible(name))
            inside = Path(folder).relative_to(self.root)
            found += [(inside / name).as_posix() for name in files if _visible(name)]
        return sorted(found)

    def folders(self, level: int) -> list[str]:
        inside = [path.relative_to(self.root) for path in self.root.glob("/".join("*" * level))]
        seen = [path.as_posix() for path in inside if all(map(_visible, path.parts))]
        return [name for name in seen if (self.root / name).is_dir()]

    def holds(self, name: str) -> bool:
        return (self.root / name).is_file()

    def open(self, name: str) -> IO[bytes]:
        return (self.root / name).open("rb")

    def images(self, names: Sequence[str]) -> Store:
        return DiskFiles(self.root, pack(names))


@dataclass(frozen=True, eq=False)
class ZipTree:
    """The members of an archive, without the one top folder that may hold them all.

    empty: the entries that are folders, each with a slash at its end.
    """

    path: Path
    members: dict[str, zipfile.ZipInfo]
    empty: tuple[str, ...]

    @classmethod
    def read(cls, path: Path) -> ZipTree:
        """Read the directory of an archive and nothing else."""
        try:
            with zipfile.ZipFile(path) as archive:
                infos = [i for i in archive.infolist() if all(map(_visible, i.filename.split("/")))]
        except zipfile.BadZipFile as error:
            raise DataError(f"{path} is not a zip, or is cut short: {error}") from error
        files = [info for info in infos if not info.is_dir()]
        cut = len(_wrapper([info.filename for info in files]))
        empty = tuple(info.filename[cut:] for info in infos if info.is_dir())
        return cls(path, {info.filename[cut:]: info for info in files}, empty)

    def names(self) -> list[str]:
        return sorted(self.members)

    def folders(self, level: int) -> list[str]:
        parts = [name.split("/")[:-1] for name in [*self.members, *self.empty]]
        return ["/".join(part[:level]) for part in parts if len(part) >= level]

    def holds(self, name: str) -> bool:
        return name in self.members

    def open(self, name: str) -> IO[bytes]:
        # Closing the archive leaves the member's own handle open until the member is closed.
        with (
            suppress(KeyError, NotImplementedError, RuntimeError),
            zipfile.ZipFile(self.path) as archive,
        ):
            return archive.open(self.members[name])
        raise DataError(f"{name} cannot be opened in {self.path}: it must be there, unencrypted")

    def images(self, names: Sequence[str]) -> Store:
        found = [self.members.get(name) for name in names]
        for info in found:
            if info and (info.compress_type not in _METHODS or info.flag_bits & _ENCRYPTED):
                raise DataError(
                    f"{info.filename} in {self.path} is encrypted or packed by method "
                    f"{info.compress_type}: only stored (0) and deflated (8) members can be read"
                )
        fields = [
            (i.header_offset, i.compress_size, i.file_size, i.CRC, i.compress_type)
            if i
            else (-1, 0, 0, 0, 0)
            for i in found
        ]
        columns = np.array(fields, dtype=np.int64).reshape(-1, 5).T.copy()
        return ZipFiles(self.path, pack(names), *columns)


def _wrapper(names: Sequence[str]) -> str:
    """`top/` when all files lie in folders of one top folder that is not itself a split."""
    tops = {name.partition("/")[0] for name in names}
    if len(tops) != 1:
        return ""
    top = tops.pop()
    nested = all(name.startswith(f"{top}/") for name in names)
    return f"{top}/" if nested and top.lower() not in _SPLIT_FOLDERS else ""


def _visible(name: str) -> bool:
    return not name.startswith(".") and name != "__MACOSX"
