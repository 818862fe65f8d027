"""`modeledit verify`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from .command import verb
from .errors import GATE_FAILED, PASSED
from .options import FILE
from .options_run import json_option
from .show import clean, emit, emit_json


@verb("verify", "modeledit verify modeledit-out")
@click.argument("directory", type=FILE, metavar="DIR")
@json_option
def command(directory: Path, as_json: bool) -> int:
    """Check a checkpoint folder against itself: files, edit, undo, provenance, report.

    The exit code is 1 if a check fails.
    """
    from modeledit.checkpoint import verify

    checks = verify(directory)
    if as_json:
        emit_json([asdict(check) for check in checks])
    else:
        lines = [f"{'pass' if c.passed else 'FAIL'}  {c.name}: {clean(c.detail)}" for c in checks]
        emit("\n".join(lines) + "\n")
    return PASSED if all(check.passed for check in checks) else GATE_FAILED
