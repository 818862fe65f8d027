"""modeledit.toml: a project's defaults. Keys are the long options; flags win.

Top-level keys hold for every verb that has the option, a table named like a verb for that verb
alone. `class = [3, 5]` repeats an option, `scorer-arg = { samples = 64 }` gives K=V pairs.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from .command import Verb

FILE = Path("modeledit.toml")


def defaults(ctx: click.Context, args: Sequence[str]) -> dict[str, Any]:
    """{parameter: value} for one verb from the file in the working directory, if there is one.

    `--demo` on the command line sets aside the file's model and data, and naming either sets aside
    the file's demo.
    """
    tool = ctx.find_root().command
    if not FILE.exists() or not isinstance(tool, click.Group):
        return {}
    found = _read()
    mine = _options(ctx.command)
    verbs = {name: tool.get_command(ctx, name) for name in tool.list_commands(ctx)}
    known = {n: _options(v) for n, v in verbs.items() if isinstance(v, Verb) and v.configurable}
    for key, value in found.items():
        if key in known:
            _check(_table(key, value), known[key], f"[{key}] of {FILE}")
    shared = {key: value for key, value in found.items() if key not in known}
    _check(shared, {key: None for options in known.values() for key in options}, str(FILE))
    table = found.get(ctx.info_name or "", {})
    given = {**{key: value for key, value in shared.items() if key in mine}, **table}
    kept = {key: value for key, value in given.items() if not _set_aside(mine[key], args)}
    return {str(mine[key].name): _value(key, mine[key], value) for key, value in kept.items()}


def _read() -> dict[str, Any]:
    try:
        return tomllib.loads(FILE.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{FILE} is not valid TOML: {error}") from error


def _options(command: click.Command) -> dict[str, click.Option]:
    """Options by long name without dashes; --force is for the moment, not for a file."""
    return {
        option.opts[-1].lstrip("-"): option
        for option in command.params
        if isinstance(option, click.Option) and option.expose_value and option.name != "force"
    }


def _check(given: Mapping[str, Any], allowed: Mapping[str, Any], where: str) -> None:
    for key in given:
        if key not in allowed:
            close = difflib.get_close_matches(key, allowed, 1)
            advice = f"did you mean {close[0]}?" if close else "use the long options as keys"
            raise click.UsageError(f"unknown key {key!r} in {where}: {advice}")


def _table(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise click.UsageError(f"{key} = {value!r} in {FILE}: a verb takes a table, [{key}]")
    return value


def _set_aside(option: click.Option, args: Sequence[str]) -> bool:
    flags = {arg.partition("=")[0] for arg in args}
    if option.name == "demo":
        return bool(flags & {"--model", "--data"})
    return "--demo" in flags and getattr(option, "group", "") in ("Model", "Data")


def _value(key: str, option: click.Option, value: Any) -> Any:
    """The value as the command line would give it."""
    if option.is_flag or isinstance(value, bool):
        if not (option.is_flag and isinstance(value, bool)):
            kind = "true or false" if option.is_flag else "not true or false"
            raise click.UsageError(f"{key} = {value!r} in {FILE}: it must be {kind}")
        return value
    if isinstance(value, Mapping):
        value = [f"{name}={part!r}" for name, part in value.items()]
    parts = [str(part) for part in value] if isinstance(value, list) else [str(value)]
    return parts if option.multiple else ",".join(parts)
