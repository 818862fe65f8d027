"""`modeledit apply`."""

from __future__ import annotations

from pathlib import Path

import click

from .command import option, verb
from .errors import PASSED
from .files import record
from .options import FILE
from .options_run import OUT, force_option, json_option
from .show import emit, emit_json


@verb("apply", "modeledit apply BASE modeledit-out/edit.safetensors -o edited")
@click.argument("base", type=FILE)
@click.argument("edit", type=FILE)
@option(
    "-o",
    "--output",
    type=FILE,
    metavar="PATH",
    default=OUT,
    show_default=True,
    group="Output",
    help="A folder, or a file that ends in .safetensors.",
)
@json_option
@force_option
def command(base: Path, edit: Path, output: Path, as_json: bool, force: bool) -> int:
    """Make the edited checkpoint from BASE and the plan EDIT, each a folder or a file."""
    from modeledit.checkpoint import apply_edit

    written = record(apply_edit(base, edit, output, force=force))
    if as_json:
        emit_json({"written": str(written)})
    else:
        emit(f"wrote {output}\n")
    return PASSED
