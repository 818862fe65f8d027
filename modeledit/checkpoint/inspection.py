"""Looking at checkpoints: what differs between two, what one holds and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeledit.checkpoint.base import MODEL, in_directory
from modeledit.checkpoint.patch import PREFIX
from modeledit.checkpoint.store import Reader
from modeledit.checkpoint.tensors import changed_entries, identity


@dataclass(frozen=True)
class TensorDiff:
    """One tensor that both sides have: entries whose bits differ, of all."""

    name: str
    changed: int
    total: int


@dataclass(frozen=True)
class Difference:
    """Two checkpoints side by side; `tensors` names every shared tensor of one dtype and shape.

    reshaped: {tensor: (dtype and shape in a, in b)} of those that cannot be compared.
    """

    tensors: tuple[TensorDiff, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    reshaped: Mapping[str, tuple[str, str]]

    @property
    def changed(self) -> int:
        return sum(tensor.changed for tensor in self.tensors)

    @property
    def identical(self) -> bool:
        """Whether both hold the same tensors, bit by bit."""
        return not (self.changed or self.only_a or self.only_b or self.reshaped)


@dataclass(frozen=True)
class TensorInfo:
    """Name, dtype as safetensors calls it, and shape of one tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Inspection:
    """What a safetensors file holds. `provenance`: base, edit, recipe, ... as modeledit wrote them,
    empty for a file of other origin; `metadata`: everything else the file says of itself."""

    path: Path
    identity: str
    tensors: tuple[TensorInfo, ...]
    metadata: Mapping[str, str]
    provenance: Mapping[str, Any]


def diff(a: Path, b: Path) -> Difference:
    """Compare two checkpoints bit by bit, one tensor at a time."""
    with Reader(in_directory(a, MODEL)) as one, Reader(in_directory(b, MODEL)) as two:
        compared, reshaped = [], {}
        for name in sorted(set(one.entries) & set(two.entries)):
            kinds = str(one.entries[name]), str(two.entries[name])
            if kinds[0] != kinds[1]:
                reshaped[name] = kinds
                continue
            tensor = one.tensor(name)
            changed = len(changed_entries(tensor, two.tensor(name)))
            compared.append(TensorDiff(name, changed, tensor.numel()))
        only_a = tuple(sorted(set(one.entries) - set(two.entries)))
        only_b = tuple(sorted(set(two.entries) - set(one.entries)))
    return Difference(tuple(compared), only_a, only_b, reshaped)


def inspect(path: Path) -> Inspection:
    """Identity, tensors, metadata and origin of a checkpoint, edit, undo or scores file."""
    file = in_directory(path, MODEL)
    with Reader(file) as reader:
        tensors = tuple(TensorInfo(n, e.dtype, e.shape) for n, e in sorted(reader.entries.items()))
        own = {k: v for k, v in reader.metadata.items() if k.startswith(PREFIX)}
        other = {k: v for k, v in reader.metadata.items() if k not in own}
        provenance = {key.removeprefix(PREFIX): _decoded(value) for key, value in own.items()}
        return Inspection(file, identity(reader.state()), tensors, other, provenance)


def _decoded(text: str) -> Any:
    try:
        return json.loads(text) if text.startswith("{") else text
    except ValueError:
        return text
