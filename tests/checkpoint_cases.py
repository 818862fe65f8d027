"""States, plans and files that the checkpoint tests share."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modeledit.checkpoint import Reader, Staging
from modeledit.checkpoint.tensors import dtype_name, to_bytes
from modeledit.types import Change, EditPlan

RECIPE = {"scorer": "peps", "editor": "zero", "strength": 0.25, "seed": 0, "target": "class:3"}


@dataclass(frozen=True)
class Loaded:
    """The part of LoadedModel that writing needs."""

    module: nn.Module
    checkpoint: Path | None = None
    spec: str = "test:tiny"
    config: Mapping[str, Any] = field(default_factory=lambda: {"num_classes": 3})


def tiny() -> nn.Module:
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return module.eval()


def plan() -> EditPlan:
    """Two entries of the convolution scaled to 0, one row of the linear layer set to 2."""
    changes = (
        Change("0.weight", (4, 1, 3, 3), torch.tensor([1, 35]), torch.zeros(2)),
        Change("3.weight", (3, 16), torch.tensor([2]), torch.tensor([2.0]), "set", "row"),
    )
    return EditPlan(changes, units={"3": (2,)}, header={"editor": "zero", "strength": 0.25})


def raw_file(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, padding: int = 0
) -> bytes:
    """A safetensors file by hand: tensors in the given order, loose JSON, any padding."""
    header: dict[str, Any] = {}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.numel() * tensor.dtype.itemsize
        kind = dtype_name(name, tensor)
        header[name] = {
            "data_offsets": [start, end],
            "shape": list(tensor.shape),
            "dtype": kind,
        }
        start = end
    if metadata is not None:
        header["__metadata__"] = dict(metadata)
    raw = json.dumps(header).encode() + b" " * padding
    return struct.pack("<Q", len(raw)) + raw + b"".join(map(to_bytes, tensors.values()))


def write_directory(out: Path, loaded: Loaded, edit: EditPlan | None = None) -> Path:
    """A checkpoint directory with a report that refers to it."""
    with Staging(out) as stage:
        stage.write_model(loaded, edit or plan(), recipe=RECIPE)  # type: ignore[arg-type]
        stage.write_text("README.md", "# card\n")
        return stage.commit()


def metadata(path: Path) -> dict[str, str]:
    """What a file says of itself."""
    with Reader(path) as reader:
        return dict(reader.metadata)
