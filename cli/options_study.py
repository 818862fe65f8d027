"""What every study takes: where it writes, which behaviour, lists of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .command import option
from .files import record
from .options import FILE
from .params import Context, Parameter, TargetSpec
from .show import emit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modeledit.study.output import Table

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


def output_option(default: str) -> Callable[[Any], Any]:
    """-o, the folder of a study."""
    return option(
        "-o",
        "--output",
        type=FILE,
        metavar="DIR",
        default=Path(default),
        show_default=True,
        group="Output",
        help="Folder of tables and pictures.",
    )


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


def check(output: Path, read: Sequence[Path], *, force: bool) -> None:
    """Refuse what could not be drawn or written, before any work."""
    from .files import Output
    from .files import check as check_places

    check_places([Output("-o", output, folder=True)], read, force=force)
    from modeledit.study import drawing
    from modeledit.study import output as places

    drawing.require()
    places.check(output, force=force, inputs=read)


def write(
    output: Path,
    header: Mapping[str, Any],
    tables: Mapping[str, Table],
    figures: Mapping[str, Figure],
    read: Sequence[Path],
    *,
    force: bool,
) -> list[Path]:
    """Put the folder in its place, and remember that it is there."""
    from modeledit.study.output import save

    written = save(output, header, tables, figures, force=force, inputs=read)
    record(output)
    return written


def wrote(output: Path, written: Sequence[Path]) -> None:
    """The last line of a study."""
    pictures = sum(path.suffix == ".png" for path in written)
    tables = sum(path.suffix == ".csv" for path in written)
    counts = [
        f"{n} {what}{'s' * (n != 1)}" for n, what in ((tables, "table"), (pictures, "picture"))
    ]
    emit(f"\nwrote  {output}: study.json, {', '.join(counts)} (PNG and SVG)\n")
