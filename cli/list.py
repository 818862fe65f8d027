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

PLUGINS: tuple[Kind, ...] = ("scorers", "editors", "attacks")
KINDS = (*PLUGINS, "metrics")
METRICS = {
    "accuracy": "--scorer-arg metric=accuracy: share of the target's images that are right.",
    "loss": "--scorer-arg metric=loss: minus their mean cross-entropy.",
    "probability": "--scorer-arg metric=probability: their label's mean probability.",
    "margin": "--scorer-arg metric=margin: mean logit of the label less the largest other.",
    "worst-group": "repair --metric: recall of the group that has the least.",
    "equalized-odds": "repair --metric: largest difference of true or false positive rates.",
    "demographic-parity": "repair --metric: largest difference of selection rates.",
}


@verb("list", "modeledit list scorers")
@click.argument("kind", type=click.Choice(KINDS), required=False)
@json_option
def command(kind: str | None, as_json: bool) -> int:
    """List the scorers, editors and attacks, those of other packages included, and the metrics."""
    from modeledit import plugins

    shown: dict[str, dict[str, str]] = {
        each: plugins.summaries(each) for each in PLUGINS if kind in (None, each)
    }
    if kind in (None, "metrics"):
        shown["metrics"] = METRICS
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
