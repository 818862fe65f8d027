"""Safetensors files in and out.

A file is read into memory of its own: nothing stays mapped or locked, and replacing the file later
changes nothing that was read from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from modeledit.checkpoint.atomic import PUBLIC, write_file
from modeledit.checkpoint.layout import (
    LENGTH,
    LONGEST_HEADER,
    Entry,
    canonical_header,
    chunks,
    parse_header,
)
from modeledit.checkpoint.tensors import DTYPES, State, check_finite, same
from modeledit.errors import CheckpointError

PICKLES = (b"PK\x03\x04", b"\x80")  # how torch.save's files begin, new and old


class Reader:
    """An open safetensors file: the header at once, tensors when asked for.

    Raises CheckpointError, in one line with the file's name, for anything that is not a complete
    safetensors file of finite numbers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        try:
            self.raw_header = self._read_header()
            self._data = self._file.tell()
            self._header = parse_header(self.raw_header, path)
            self._check_size()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: object, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._header.metadata

    @property
    def entries(self) -> Mapping[str, Entry]:
        """{tensor name: its entry}, in the order of the data."""
        return self._header.entries

    def tensor(self, name: str) -> Tensor:
        """The tensor of that name, in its own memory, checked for NaN and infinity."""
        if name not in self.entries:
            raise CheckpointError(f"{self.path} has no tensor {name}")
        entry = self.entries[name]
        buffer = bytearray(entry.end - entry.start)
        self._file.seek(self._data + entry.start)
        if self._file.readinto(buffer) != len(buffer):
            raise CheckpointError(f"{self.path} was cut short while it was read: read it again")
        if not buffer:
            return torch.empty(entry.shape, dtype=DTYPES[entry.dtype])
        found = torch.frombuffer(buffer, dtype=DTYPES[entry.dtype]).reshape(entry.shape)
        check_finite(name, found, self.path)
        return found

    def state(self) -> dict[str, Tensor]:
        """Every tensor, in the order of the data."""
        return {name: self.tensor(name) for name in self.entries}

    def _read_header(self) -> bytes:
        start = self._file.read(LENGTH.size)
        length = LENGTH.unpack(start)[0] if len(start) == LENGTH.size else 0
        raw = self._file.read(length) if 0 < length <= LONGEST_HEADER else b""
        if raw.startswith(b"{") and len(raw) == length:
            return raw
        # Only now: a header of 640 bytes begins like a pickle, too.
        if start.startswith(PICKLES):
            raise CheckpointError(
                f"{self.path} is a pickle, not a safetensors file: convert it, or load it as a "
                "model with --allow-pickle"
            )
        raise CheckpointError(
            f"{self.path} is not a safetensors file, or was cut short in its header: fetch it again"
        )

    def _check_size(self) -> None:
        size = self._file.seek(0, 2) - self._data
        if size != self._header.size:
            raise CheckpointError(
                f"{self.path} is {'truncated' if size < self._header.size else 'too long'}: its "
                f"header announces {self._header.size:,} bytes of tensors, {size:,} follow: "
                "fetch it again"
            )


def is_safetensors(path: Path) -> bool:
    """Whether the file is meant to be one: by its name, or else by not being a pickle."""
    if path.suffix == ".safetensors":
        return True
    try:
        with path.open("rb") as file:
            return file.read(LENGTH.size + 1)[LENGTH.size :] == b"{"
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def read_state(path: Path | str) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, in the order of the data."""
    with Reader(Path(path)) as reader:
        return reader.state()


def write_state(
    path: Path,
    state: State,
    metadata: Mapping[str, str] | None = None,
    *,
    raw_header: bytes | None = None,
    mode: int = PUBLIC,
) -> None:
    """Write atomically, compared with `state` tensor by tensor before the old file is replaced.

    The layout is canonical, or that of `raw_header` (which then holds the metadata).
    """
    for name, tensor in state.items():
        check_finite(name, tensor, path)

    def compare(written: Path) -> None:
        with Reader(written) as reader:
            for name, tensor in state.items():
                if not same(reader.tensor(name), tensor):
                    raise CheckpointError(f"{path}: {name} came back changed: check the disk")

    header = raw_header if raw_header is not None else canonical_header(state, metadata or {})
    write_file(path, chunks(state, header), mode=mode, check=compare)
