"""The way back: the old values of exactly the entries that changed, and the base file's layout.

Whoever has this file has the class back: it is written for its owner alone and must not be shipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from modeledit.checkpoint.atomic import PRIVATE
from modeledit.checkpoint.base import Base
from modeledit.checkpoint.patch import PREFIX, open_kind, stated
from modeledit.checkpoint.store import write_state
from modeledit.checkpoint.tensors import State, changed_entries, identity
from modeledit.errors import CheckpointError

HEADER = "base_header"


@dataclass(frozen=True, eq=False)
class Undo:
    """What turns one edited checkpoint back into its base.

    old: {tensor: ((k,) int64 flat positions ascending, (k,) old values in the tensor's dtype)}.
    base, edited: identities; sha256, raw_header: of the base file, None if it was not safetensors.
    """

    old: Mapping[str, tuple[Tensor, Tensor]]
    base: str
    edited: str
    sha256: str | None
    raw_header: bytes | None


def undo_of(base: Base, edited: State) -> Undo:
    """What must be kept of `base` to come back from `edited`, which has the same tensors."""
    old: dict[str, tuple[Tensor, Tensor]] = {}
    for name, tensor in base.state.items():
        where = changed_entries(tensor, edited[name])
        if len(where):
            old[name] = (where, tensor.detach().cpu().contiguous().reshape(-1)[where])
    return Undo(old, base.identity, identity(edited), base.sha256, base.raw_header)


def take_back(state: State, undo: Undo, source: str) -> dict[str, Tensor]:
    """The base's tensors; `source` names the edited checkpoint in messages."""
    found = identity(state)
    if found != undo.edited:
        raise CheckpointError(
            f"{source} has identity {found[:12]}, but the undo file belongs to "
            f"{undo.edited[:12]}: give the checkpoint that was written with it"
        )
    result = dict(state)
    for name, (where, values) in undo.old.items():
        _check_fit(name, where, values, state)
        flat = state[name].detach().clone().contiguous().reshape(-1)
        flat[where] = values
        result[name] = flat.reshape(state[name].shape)
    if identity(result) != undo.base:
        raise CheckpointError(f"the undo file for {source} was altered: its values are not the old")
    return result


def save_undo(path: Path, undo: Undo) -> None:
    """Write undo.safetensors, readable by its owner only."""
    tensors: dict[str, Tensor] = {}
    for name, (where, values) in undo.old.items():
        tensors |= {f"at/{name}": where, f"old/{name}": values}
    metadata = {"kind": "undo", "base": undo.base, "edited": undo.edited}
    if undo.raw_header is not None and undo.sha256 is not None:
        tensors[HEADER] = torch.frombuffer(bytearray(undo.raw_header), dtype=torch.uint8)
        metadata["base_sha256"] = undo.sha256
    write_state(path, tensors, {PREFIX + k: v for k, v in metadata.items()}, mode=PRIVATE)


def load_undo(path: Path) -> Undo:
    """Read undo.safetensors."""
    with open_kind(path, "undo") as reader:
        found = stated(reader, "base", "edited")
        names = [name.removeprefix("at/") for name in reader.entries if name.startswith("at/")]
        old = {n: (reader.tensor(f"at/{n}"), reader.tensor(f"old/{n}")) for n in sorted(names)}
        raw = bytes(reader.tensor(HEADER).numpy()) if HEADER in reader.entries else None
        sha256 = reader.metadata.get(PREFIX + "base_sha256")
    return Undo(old, found["base"], found["edited"], sha256, raw)


def _check_fit(name: str, where: Tensor, values: Tensor, state: State) -> None:
    tensor = state.get(name)
    if tensor is None or tensor.dtype != values.dtype or where.dtype != torch.int64:
        raise CheckpointError(f"the undo file keeps {name}, which is not there or of another dtype")
    inside = (where >= 0) & (where < tensor.numel())
    if where.shape != values.shape or not bool(inside.all()):
        raise CheckpointError(f"the undo file keeps values beyond the end of {name}")
