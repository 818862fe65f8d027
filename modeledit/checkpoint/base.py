"""What an edit starts from: a checkpoint file, or the weights of a network that has none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from modeledit.checkpoint.layout import chunks
from modeledit.checkpoint.store import Reader, is_safetensors
from modeledit.checkpoint.tensors import State, file_digest, identity
from modeledit.errors import CheckpointError

if TYPE_CHECKING:
    from modeledit.models import LoadedModel

MODEL = "model.safetensors"


@dataclass(frozen=True, eq=False)
class Base:
    """The unedited tensors, and how their file was laid out if it is a safetensors file.

    source:     names the base in messages.
    raw_header: the file's header as it is; None for a pickle or a network from Python.
    """

    state: State
    source: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    raw_header: bytes | None = None

    @cached_property
    def identity(self) -> str:
        return identity(self.state)

    @cached_property
    def sha256(self) -> str | None:
        """Of the file's bytes; None where there is no safetensors file."""
        if self.raw_header is None:
            return None
        return file_digest(chunks(self.state, self.raw_header))


def read_base(path: Path) -> Base:
    """A safetensors file, or the model.safetensors of a directory."""
    file = in_directory(path, MODEL)
    with Reader(file) as reader:
        return Base(reader.state(), str(file), reader.metadata, reader.raw_header)


def base_of(loaded: LoadedModel) -> Base:
    """The file the model was loaded from, if it is safetensors, else the network's own weights."""
    file = loaded.checkpoint
    if file is None or not is_safetensors(file):
        return Base(loaded.module.state_dict(), loaded.spec)
    base = read_base(file)
    _check_unchanged(base, loaded.module)
    return base


def in_directory(path: Path, name: str) -> Path:
    """The path itself, or the file of that name if it is a directory."""
    if not path.exists():
        raise CheckpointError(f"{path} is not there: give a safetensors file or its directory")
    return path / name if path.is_dir() else path


def _check_unchanged(base: Base, module: nn.Module) -> None:
    """The edit was made for the network in memory and goes into the file: they must agree."""
    for name, tensor in module.state_dict().items():
        stored = base.state.get(name)
        if stored is not None and not torch.equal(stored.to(tensor.dtype), tensor.cpu()):
            raise CheckpointError(
                f"{name} in memory is not what {base.source} holds: the network was changed after "
                "loading; save it and load the new file"
            )
