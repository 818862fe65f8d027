"""`modeledit revert`."""

from __future__ import annotations

from pathlib import Path

import click

from .command import option, verb
from .errors import PASSED
from .files import record
from .options import FILE
from .options_run import force_option, json_option
from .show import emit, emit_json


@verb("revert", "modeledit revert modeledit-out -o restored")
@click.argument("edited", type=FILE)
@click.argument("undo", type=FILE, required=False)
@option(
    "-o",
    "--output",
    type=FILE,
    metavar="PATH",
    default=Path("modeledit-reverted"),
    show_default=True,
    group="Output",
    help="A folder, or a file that ends in .safetensors.",
)
@json_option
@force_option
def command(edited: Path, undo: Path | None, output: Path, as_json: bool, force: bool) -> int:
    """Bring back the checkpoint from before the edit, byte for byte.

    EDITED is a folder or a file; UNDO is its undo.safetensors, by default the one beside it.
    """
    from modeledit.checkpoint import revert

    found = revert(edited, undo, output, force=force)
    record(found.path)
    if as_json:
        known = {} if found.sha256 is None else {"sha256": found.sha256}
        told = {"exact": found.exact, "note": found.note, "written": str(found.path)}
        emit_json({**told, **known})
    else:
        sha256 = f"sha256 {found.sha256}\n" if found.sha256 else ""
        emit(f"wrote {output}: {found.note}\n{sha256}")
    return PASSED
