"""`modeledit inspect`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .command import verb
from .errors import PASSED
from .options import FILE
from .options_run import json_option
from .show import clean, draw, emit_json, short
from .show_scores import made_with, summary

if TYPE_CHECKING:
    from rich.table import Table

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
    elif found.provenance.get("kind") == "scores":
        draw(*_scores(found))
    else:
        draw(*_lines(found))
    return PASSED


def _scores(found: Inspection) -> list[Any]:
    from modeledit.checkpoint import load_scores

    scores = load_scores(found.path)
    origin = _grid([("identity", found.identity), *made_with(scores)])
    return [clean(found.path), origin, "", *summary(scores, all_layers=True)]


def _lines(found: Inspection) -> list[Any]:
    from .show_measurement import table

    weights = sum(math.prod(tensor.shape) for tensor in found.tensors)
    heading = f"{clean(found.path)}: {len(found.tensors)} tensors, {weights:,} numbers"
    told = [*sorted(found.provenance.items()), *sorted(found.metadata.items())]
    origin = _grid([("identity", found.identity), *((key, _shown(value)) for key, value in told)])
    made = table("tensor", "dtype", "shape")
    for tensor in found.tensors:
        made.add_row(
            short(tensor.name, 48), tensor.dtype, " x ".join(map(str, tensor.shape)) or "scalar"
        )
    return [heading, origin, "", made]


def _grid(rows: Sequence[tuple[str, str]]) -> Table:
    """Names beside what they stand for."""
    from rich.table import Table

    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for name, text in rows:
        made.add_row(clean(name), text)
    return made


def _shown(value: Any) -> str:
    """Text as it is; an object with a line for each of its entries."""
    if isinstance(value, dict) and value:
        return "\n".join(f"{clean(key)}: {_line(each)}" for key, each in sorted(value.items()))
    return _line(value)


def _line(value: Any) -> str:
    return short(value if isinstance(value, str) else json.dumps(value, sort_keys=True), 600)
