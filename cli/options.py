"""How shared options become decorators: each hands the verb one frozen value with what was given.

@verb("evaluate", example="...")
@model_options
@run_options
def command(model: ModelChoice, run: Run) -> int: ...
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any

import click

from .command import option
from .params import Whole

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
Pairs = tuple[tuple[str, Any], ...]
FILE = click.Path(path_type=Path)


def bundle(name: str, kind: type[Any], options: Sequence[Decorator]) -> Decorator:
    """Adds options to a verb and hands it their values as one `kind`, its parameter `name`."""
    names = [field.name for field in fields(kind)]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(**values: Any) -> Any:
            chosen = kind(**{each: values.pop(each) for each in names})
            return function(**values, **{name: chosen})

        wrapped: Callable[..., Any] = call
        for add in reversed(options):
            wrapped = add(wrapped)
        return wrapped

    return decorate


def number(flag: str, default: int, help_text: str, *, group: str, least: int = 1) -> Decorator:
    """A whole number from `least` up."""
    return option(
        flag,
        type=Whole(least),
        metavar="N",
        default=default,
        show_default=True,
        group=group,
        help=help_text,
    )


def choice(
    flag: str, allowed: Sequence[str], help_text: str, *, group: str, metavar: str = "WHAT"
) -> Decorator:
    """One of the allowed words, the first of them if none is given."""
    return option(
        flag,
        type=click.Choice(allowed),
        metavar=metavar,
        default=allowed[0],
        show_default=True,
        group=group,
        help=help_text,
    )
