"""What studies take: which behaviour, lists of numbers and of words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from .command import option
from .params import Context, Parameter, TargetSpec

if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType


class Radii(_Type):
    """Comma-separated numbers from 0 up, all different."""

    name = "N,N,..."

    def convert(self, value: Any, param: Parameter, ctx: Context) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in str(value).split(","))
        except ValueError:
            numbers = ()
        sound = all(math.isfinite(n) and n >= 0 for n in numbers)
        if not numbers or not sound or len(set(numbers)) < len(numbers):
            self.fail(f"{value!r} is no list of different numbers from 0: give 1,10", param, ctx)
        return numbers


class Counts(_Type):
    """Comma-separated whole numbers from 1 up, all different."""

    name = "N,N,..."

    def convert(self, value: Any, param: Parameter, ctx: Context) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        numbers = tuple(int(part) for part in parts if part.isascii() and part.isdigit())
        if len(numbers) < len(parts) or min(numbers) < 1 or len(set(numbers)) < len(numbers):
            self.fail(f"{value!r} is no list of different counts: give 8,32", param, ctx)
        return numbers


class Shares(Radii):
    """Comma-separated shares above 0 and up to 1, all different."""

    def convert(self, value: Any, param: Parameter, ctx: Context) -> tuple[float, ...]:
        numbers = super().convert(value, param, ctx)
        if min(numbers) <= 0 or max(numbers) > 1:
            self.fail(f"{value!r} is no list of shares above 0, up to 1: give 0.01,0.1", param, ctx)
        return tuple(sorted(numbers))


class Choices(_Type):
    """Comma-separated words of a list, all different."""

    name = "NAME,..."

    def __init__(self, known: Sequence[str]) -> None:
        self.known = tuple(known)

    def convert(self, value: Any, param: Parameter, ctx: Context) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        words = tuple(part.strip() for part in str(value).split(","))
        if set(words) - set(self.known) or len(set(words)) < len(words):
            self.fail(f"{value!r} is not allowed: use {', '.join(self.known)}", param, ctx)
        return words


def target_option(**attrs: Any) -> Callable[[Any], Any]:
    """--target, for a study of classes or of all images."""
    return option(
        "--target",
        type=TargetSpec(),
        metavar="TARGET",
        group="Scoring",
        help="accuracy (all images) or class:NAME[,NAME...].",
        **attrs,
    )
