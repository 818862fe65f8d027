"""`modeledit inspect`."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .command import verb
from .errors import PASSED
from .options import FILE
from .options_run import json_option
from .show import clean, draw, emit_json, short

if TYPE_CHECKING:
    from modeledit.checkpoint import Inspection


@verb("inspect", "modeledit inspect modeledit-out")
@click.argument("path", type=FILE)
@json_option
def command(path: Path, as_json: bool) -> int:
    """Show what a checkpoint, edit, undo or scores file holds and where it came from."""
    from modeledit.checkpoint import inspect

    found = inspect(path)
    if as_json:
        emit_json({**asdict(found), "path": str(found.path)})
    else:
        draw(*_lines(found))
    return PASSED


def _lines(found: Inspection) -> list[Any]:
    from .show_measurement import table

    weights = sum(math.prod(tensor.shape) for tensor in found.tensors)
    parts: list[Any] = [
        f"{clean(found.path)}: {len(found.tensors)} tensors, {weights:,} numbers",
        f"identity  {found.identity}",
    ]
    for key, value in [*sorted(found.provenance.items()), *sorted(found.metadata.items())]:
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        parts.append(f"{clean(key):<8}  {short(text, 600)}")
    made = table("tensor", "dtype", "shape")
    for tensor in found.tensors:
        made.add_row(
            short(tensor.name, 48), tensor.dtype, " x ".join(map(str, tensor.shape)) or "scalar"
        )
    return [*parts, "", made]
