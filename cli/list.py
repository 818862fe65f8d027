"""`modeledit list`."""

from __future__ import annotations

import shutil
import textwrap
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
        for name, about in found.items():
            lines += _entry(f"  {name:<{width}}  ", clean(about))
    emit("\n".join(lines) + "\n")
    return PASSED


def _entry(head: str, about: str) -> list[str]:
    """Lines as wide as the terminal, up to 100 columns; what wraps stays beside the name."""
    width = min(shutil.get_terminal_size().columns, 100)
    # where nothing fits beside the names, a wrapped line would be a letter long
    room = max(width, len(head) + 20)
    wrapped = textwrap.wrap(about, room - len(head)) or [""]
    return [f"{' ' * len(head) if place else head}{line}" for place, line in enumerate(wrapped)]
