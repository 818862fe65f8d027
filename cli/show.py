"""Printing: everything a person or a program reads goes through `emit`."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

GLUE = "\ue000"  # a blank once drawn: rich breaks lines at any that is one before


def emit(text: str) -> None:
    """Write to stdout. A reader that has left (`| head`) is no error: the rest goes nowhere."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def emit_json(value: Any) -> None:
    """One JSON document, keys sorted."""
    emit(json.dumps(value, indent=2, sort_keys=True) + "\n")


def draw(*parts: RenderableType) -> None:
    """Tables and text for people, as wide as the terminal up to 100 columns, 80 without one."""
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
    console.width = min(console.width, 100)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    # rich pads lines with blanks, which would wrap in a narrower window and litter logs
    lines = captured.get().replace(GLUE, " ").split("\n")
    emit("\n".join(line.rstrip() for line in lines))


def clean(text: object) -> str:
    """Without control characters, which names from files may hold."""
    return "".join(char if char.isprintable() else "?" for char in str(text))


def counted(number: int, what: str) -> str:
    """`1 unit`, `2 units`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def short(text: object, width: int) -> str:
    """At most `width` characters, both ends kept: the end of a layer's name tells most."""
    shown = clean(text)
    if len(shown) <= width:
        return shown
    head = (width - 1) // 3
    return f"{shown[:head]}…{shown[len(shown) - (width - 1 - head) :]}"


def together(text: str) -> str:
    """For `draw`: on one line, as a number and its unit."""
    return text.replace(" ", GLUE)


def percent(share: float | None) -> str:
    """0.0123 as `1.2 %`."""
    return "-" if share is None else f"{100 * share:.1f} %"


def points(change: float | None) -> str:
    """A difference of shares in percentage points, signed."""
    # adding 0 turns the minus zero of a small loss into a plain one
    return "-" if change is None else f"{round(100 * change, 1) + 0.0:+.1f}"
