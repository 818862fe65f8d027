"""`modeledit diff`."""

from __future__ import annotations

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
    from modeledit.checkpoint import Difference


@verb("diff", "modeledit diff base.safetensors modeledit-out")
@click.argument("a", type=FILE)
@click.argument("b", type=FILE)
@json_option
def command(a: Path, b: Path, as_json: bool) -> int:
    """Compare two checkpoints bit by bit; each is a folder or a file."""
    from modeledit.checkpoint import diff

    found = diff(a, b)
    if as_json:
        emit_json({**asdict(found), "changed": found.changed, "identical": found.identical})
    else:
        draw(*_lines(found))
    return PASSED


def _lines(found: Difference) -> list[Any]:
    from .show_measurement import table

    if found.identical:
        return [f"identical: {len(found.tensors)} tensors, every bit"]
    differing = [tensor for tensor in found.tensors if tensor.changed]
    parts: list[Any] = []
    if differing:
        made = table("tensor", "changed", "of", "share")
        for row in differing:
            share = f"{100 * row.changed / row.total:.3g} %"
            made.add_row(short(row.name, 44), f"{row.changed:,}", f"{row.total:,}", share)
        parts.append(made)
    where = f"{len(differing)} of {len(found.tensors)} tensors"
    parts.append(f"{found.changed:,} entries differ in {where}")
    parts += [f"only in the first: {clean(name)}" for name in found.only_a]
    parts += [f"only in the second: {clean(name)}" for name in found.only_b]
    for name, (one, two) in found.reshaped.items():
        parts.append(f"{clean(name)}: {one} in the first, {two} in the second")
    return parts
