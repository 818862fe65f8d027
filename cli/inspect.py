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
    from rich.table import Table

    from .show_measurement import table

    weights = sum(math.prod(tensor.shape) for tensor in found.tensors)
    heading = f"{clean(found.path)}: {len(found.tensors)} tensors, {weights:,} numbers"
    origin = Table.grid(padding=(0, 2, 0, 0))
    origin.add_row("identity", found.identity)
    for key, value in [*sorted(found.provenance.items()), *sorted(found.metadata.items())]:
        origin.add_row(clean(key), _shown(value))
    made = table("tensor", "dtype", "shape")
    for tensor in found.tensors:
        made.add_row(
            short(tensor.name, 48), tensor.dtype, " x ".join(map(str, tensor.shape)) or "scalar"
        )
    return [heading, origin, "", made]


def _shown(value: Any) -> str:
    """Text as it is; an object with a line for each of its entries."""
    if isinstance(value, dict) and value:
        return "\n".join(f"{clean(key)}: {_line(each)}" for key, each in sorted(value.items()))
    return _line(value)


def _line(value: Any) -> str:
    return short(value if isinstance(value, str) else json.dumps(value, sort_keys=True), 600)
