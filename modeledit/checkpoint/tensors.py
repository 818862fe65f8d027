"""Tensors as bits: which dtypes a file can hold, what changed, and the identity of a state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from modeledit.errors import CheckpointError

State = Mapping[str, Tensor]

# In the order in which the safetensors library lays them out, last first.
DTYPES: Mapping[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "C64": torch.complex64,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_AS_INTEGER = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def dtype_name(name: str, tensor: Tensor) -> str:
    """How safetensors calls the dtype of tensor `name`."""
    if not isinstance(tensor, Tensor) or tensor.dtype not in _NAMES:
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise CheckpointError(f"{name} is {kind}, which cannot be written: use {', '.join(DTYPES)}")
    return _NAMES[tensor.dtype]


def bits(tensor: Tensor) -> Tensor:
    """(n,) the entries as integers of the same width, in row-major order."""
    flat = tensor.detach().to("cpu").contiguous().reshape(-1)
    return flat.view(_AS_INTEGER[flat.dtype.itemsize])


def to_bytes(tensor: Tensor) -> bytes:
    """The entries as a file holds them: row-major, little-endian."""
    return bits(tensor).numpy().tobytes()


def changed_entries(a: Tensor, b: Tensor) -> Tensor:
    """(k,) int64, ascending flat positions where two tensors of one dtype and shape differ."""
    return (bits(a) != bits(b)).nonzero().flatten()


def same(a: Tensor, b: Tensor) -> bool:
    """Same dtype, shape and bits (0.0 and -0.0 differ)."""
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def check_finite(name: str, tensor: Tensor, source: Path | str) -> None:
    """CheckpointError if the tensor holds NaN or infinity."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return
    wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # float8 knows no isfinite
    if not bool(torch.isfinite(wide).all()):
        raise CheckpointError(
            f"{source}: tensor {name} holds NaN or infinity, only finite numbers are allowed: "
            "use a sound checkpoint"
        )


def identity(state: State) -> str:
    """sha256 over sorted (name, dtype, shape, bytes): what the numbers are, however laid out."""
    sha = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        head = [name, dtype_name(name, tensor), list(tensor.shape)]
        sha.update(json.dumps(head).encode())
        sha.update(to_bytes(tensor))
    return sha.hexdigest()


def file_digest(parts: Iterable[bytes]) -> str:
    """sha256 of a file whose bytes come in parts."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.hexdigest()
