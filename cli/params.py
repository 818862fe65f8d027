"""Types of option values. A message says what came, what is allowed and what to do."""

from __future__ import annotations

import ast
import difflib
import math
import re
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from modeledit.plugins import Kind

    _Type = click.ParamType[Any]
else:
    _Type = click.ParamType

Context = click.Context | None
Parameter = click.Parameter | None


class Strength(_Type):
    """`auto`, a fraction (with a point or an exponent) or a count (with neither)."""

    name = "strength"
    allowed = "use auto, a fraction such as 0.003, or a count such as 30"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> str | float | int:
        text = str(value).strip()
        if text == "auto":
            return text
        if text.startswith("-"):
            self.fail(f"{text!r} is negative: {self.allowed}", param, ctx)
        if re.fullmatch(r"\+?\d+", text):
            return int(text)
        number = _number(text)
        if number is None or not math.isfinite(number):
            self.fail(f"{text!r} is not a strength: {self.allowed}", param, ctx)
        if number > 1:
            self.fail(f"{text} is more than everything: {self.allowed}", param, ctx)
        return number


class Share(_Type):
    """A number in 0..1."""

    name = "share"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> float:
        number = _number(str(value))
        if number is None or not 0 <= number <= 1:
            self.fail(f"{value!r} is not a share: give a number in 0..1", param, ctx)
        return number


class Epsilon(_Type):
    """A length from 0 up, as a number or a fraction such as 8/255."""

    name = "size"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> float:
        parts = [_number(part) for part in str(value).split("/")]
        numbers = [n for n in parts if n is not None and math.isfinite(n)]
        bad = len(numbers) != len(parts) or len(parts) > 2 or numbers[1:] == [0]
        if bad or (length := numbers[0] / (numbers[1] if len(numbers) > 1 else 1)) < 0:
            self.fail(f"{value!r} is not a size: give a number such as 8/255 or 0.03", param, ctx)
        return length


class Whole(_Type):
    """A whole number of at least `least`."""

    name = "n"

    def __init__(self, least: int) -> None:
        self.least = least

    def convert(self, value: Any, param: Parameter, ctx: Context) -> int:
        text = str(value)
        if not re.fullmatch(r"[+-]?\d+", text) or int(text) < self.least:
            self.fail(f"{text!r} is not allowed: give a whole number from {self.least}", param, ctx)
        return int(text)


class KeyValue(_Type):
    """`K=V`; V is a Python literal where it reads as one, else a string."""

    name = "K=V"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key.isidentifier():
            self.fail(f"{value!r} is not of the form NAME=VALUE, such as samples=64", param, ctx)
        try:
            return key, ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return key, text


class LayerNames(_Type):
    """`auto`, or comma-separated names of layers."""

    name = "layers"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> Any:
        return value if value == "auto" else Names().convert(value, param, ctx)


class Numbers(_Type):
    """Comma-separated numbers."""

    name = "numbers"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> tuple[float, ...]:
        if isinstance(value, tuple):
            return value
        parts = [_number(part) for part in str(value).split(",")]
        numbers = tuple(n for n in parts if n is not None and math.isfinite(n))
        if len(numbers) != len(parts):
            self.fail(f"{value!r} is not a list of numbers: give 0.5 or 0.5,0.5,0.5", param, ctx)
        return numbers


class Names(_Type):
    """Comma-separated names, none of them empty or given twice."""

    name = "names"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        names = tuple(part.strip() for part in str(value).split(","))
        if not all(names):
            self.fail(f"{value!r} has an empty name: give NAME,NAME,...", param, ctx)
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            self.fail(f"{twice!r} is given twice: name each once", param, ctx)
        return names


class Plugin(_Type):
    """The name of a scorer, editor or attack; the folders are read, nothing is imported.

    others: words that are allowed as well.
    """

    def __init__(self, kind: Kind, *others: str) -> None:
        self.kind = kind
        self.name = kind[:-1]
        self.others = others

    def known(self) -> list[str]:
        from modeledit import plugins

        return [*self.others, *plugins.names(self.kind)]

    def convert(self, value: Any, param: Parameter, ctx: Context) -> str:
        known = self.known()
        if value not in known:
            close = difflib.get_close_matches(str(value), known, 1)
            advice = f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"
            self.fail(f"no {self.name} is called {value!r}: {advice}", param, ctx)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        del ctx, param  # the choice depends on neither
        return [CompletionItem(name) for name in self.known() if name.startswith(incomplete)]


class Spending(_Type):
    """A number of evaluations, or a time such as 90s, 10m, 2h or 1d; (evaluations, seconds)."""

    name = "budget"

    def convert(
        self, value: Any, param: Parameter, ctx: Context
    ) -> tuple[int | None, float | None]:
        if isinstance(value, tuple):
            return value
        text = str(value).strip()
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
        if found and float(found[1]) > 0:
            return None, float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]
        if re.fullmatch(r"\d+", text) and int(text) >= 2:
            return int(text), None
        allowed = "give 2 or more evaluations, such as 5000, or a time such as 90s, 10m or 2h"
        self.fail(f"{value!r} is no budget: {allowed}", param, ctx)


class Device(_Type):
    """`auto`, `cpu`, `cuda` or `cuda:N`."""

    name = "device"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", str(value)):
            self.fail(f"{value!r} is not a device: use auto, cpu, cuda or cuda:N", param, ctx)
        return str(value)


class TargetSpec(_Type):
    """A target as `targets.parse` takes it; class names are checked against the model later."""

    name = "target"

    def convert(self, value: Any, param: Parameter, ctx: Context) -> str:
        if not re.fullmatch(r"class:.+|accuracy|attack|group(:mean|:worst)?", str(value)):
            allowed = "use class:NAME[,NAME...], group, group:worst, attack or accuracy"
            self.fail(f"{value!r} is not a target: {allowed}", param, ctx)
        return str(value)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
