"""`modeledit list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .command import verb
from .errors import PASSED
from .options_run import json_option
from .show import clean, emit, emit_json

if TYPE_CHECKING:
    from modeledit.plugins import Kind

KINDS: tuple[Kind, ...] = ("scorers", "editors", "attacks")


@verb("list", "modeledit list scorers")
@click.argument("kind", type=click.Choice(KINDS), required=False)
@json_option
def command(kind: str | None, as_json: bool) -> int:
    """List the scorers, editors and attacks, those of other packages included."""
    from modeledit import plugins

    shown = {each: plugins.summaries(each) for each in KINDS if kind in (None, each)}
    if as_json:
        emit_json(shown)
        return PASSED
    lines = []
    for title, found in shown.items():
        lines.append(f"{title}:")
        width = max(map(len, found), default=0)
        lines += [f"  {name:<{width}}  {clean(about)}" for name, about in found.items()]
    emit("\n".join(lines) + "\n")
    return PASSED
