"""The safetensors layout: headers parsed strictly and written canonically.

Canonical is what the safetensors library writes, with the metadata sorted as well (the library's
order is random), so that the same tensors and metadata are the same bytes.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from modeledit.checkpoint.tensors import DTYPES, State, dtype_name, to_bytes
from modeledit.errors import CheckpointError

LENGTH = struct.Struct("<Q")  # of the header, at the start of the file
LONGEST_HEADER = 100_000_000  # bytes; the library's own limit
_RANK = {name: rank for rank, name in enumerate(DTYPES)}


class Entry(NamedTuple):
    """One tensor of a header: dtype by its safetensors name, bytes `start` to `end` of the data."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


class Header(NamedTuple):
    """A parsed header: metadata, and entries in the order of their data."""

    metadata: dict[str, str]
    entries: dict[str, Entry]

    @property
    def size(self) -> int:
        """Bytes of data that must follow the header."""
        return max((entry.end for entry in self.entries.values()), default=0)


def parse_header(raw: bytes, path: Path | str) -> Header:
    """What a raw header says; one that contradicts itself is a CheckpointError."""
    try:
        found: dict[str, Any] = json.loads(raw)
        metadata = {str(key): str(value) for key, value in found.pop("__metadata__", {}).items()}
        entries = {name: _entry(value) for name, value in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} has a broken safetensors header: {error}") from error
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].end)))
    expected = 0
    for name, entry in ordered.items():
        size = math.prod(entry.shape) * DTYPES[entry.dtype].itemsize
        if entry.start != expected or entry.end - entry.start != size:
            raise CheckpointError(
                f"{path} has a broken safetensors header: {name} ({entry}) "
                f"is put at bytes {entry.start} to {entry.end}"
            )
        expected = entry.end
    return Header(metadata, ordered)


def _entry(value: Mapping[str, Any]) -> Entry:
    if value["dtype"] not in DTYPES:
        raise ValueError(f"dtype {value['dtype']} is not one of {', '.join(DTYPES)}")
    start, end = map(int, value["data_offsets"])
    shape = tuple(map(int, value["shape"]))
    if any(length < 0 for length in shape):
        raise ValueError(f"shape {list(shape)} is negative")
    return Entry(value["dtype"], shape, start, end)


def canonical_header(state: State, metadata: Mapping[str, str]) -> bytes:
    """The raw header: wider dtypes first, then names ascending; metadata keys ascending."""
    found: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    start = 0
    for name in sorted(state, key=lambda name: (-_RANK[dtype_name(name, state[name])], name)):
        end = start + state[name].numel() * state[name].dtype.itemsize
        found[name] = {
            "dtype": dtype_name(name, state[name]),
            "shape": list(state[name].shape),
            "data_offsets": [start, end],
        }
        start = end
    raw = json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()
    return raw + b" " * (-len(raw) % LENGTH.size)


def chunks(state: State, raw_header: bytes) -> Iterator[bytes]:
    """The file's bytes, a tensor at a time: `state` laid out as the header says."""
    entries = parse_header(raw_header, "the header to write").entries
    if set(entries) != set(state):
        odd = sorted(set(entries) ^ set(state))[0]
        raise CheckpointError(f"the header and the tensors to write disagree about {odd}")
    yield LENGTH.pack(len(raw_header)) + raw_header
    for name, entry in entries.items():
        if (dtype_name(name, state[name]), tuple(state[name].shape)) != entry[:2]:
            raise CheckpointError(f"the header says {entry} for {name}, the tensor is another")
        yield to_bytes(state[name])


def canonical(state: State, metadata: Mapping[str, str]) -> bytes:
    """A whole file in canonical layout."""
    return b"".join(chunks(state, canonical_header(state, metadata)))
