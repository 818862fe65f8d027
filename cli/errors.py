"""Whatever goes wrong becomes one line on stderr and an exit code."""

from __future__ import annotations

import difflib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click
from click.core import ParameterSource

from modeledit.errors import ModelEditError

PASSED, GATE_FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130
TRACEBACK = "MODELEDIT_TRACEBACK"


def complain(error: BaseException, args: Sequence[str]) -> int:
    """Say what is wrong in one line; the traceback only when it was asked for."""
    if "--traceback" in args or os.environ.get(TRACEBACK, "0") not in ("", "0"):
        traceback.print_exception(error)
    say(f"error: {explain(error)}")
    return BAD_INPUT


def interrupted(written: Sequence[Path]) -> int:
    """Say what an interruption left behind."""
    what = ", ".join(map(str, written)) if written else "nothing"
    say(f"interrupted, {what} was written")
    return INTERRUPTED


def say(text: str) -> None:
    """One line on stderr, whatever the text holds."""
    line = " ".join(f"modeledit: {text}".split())
    encoding = sys.stderr.encoding or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)


def explain(error: BaseException) -> str:
    """What came, what is allowed, what to do."""
    if isinstance(error, ModelEditError):
        return str(error)
    if isinstance(error, click.ClickException):
        return _usage(error)
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror or error}: check the path and its permissions"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory: use a smaller --batch-size or --limit, or --device cpu"
    return (
        f"unexpected {type(error).__name__}: {error} (run again with --traceback to see where; "
        "if the input is sound, please report it)"
    )


def _usage(error: click.ClickException) -> str:
    ctx = getattr(error, "ctx", None)
    help_hint = f"see `{ctx.command_path} --help`" if ctx else "see `modeledit --help`"
    if isinstance(error, click.NoSuchOption):
        found = difflib.get_close_matches(error.option_name, error.possibilities or (), 1, 0.75)
        close = f"did you mean {found[0]}? " if found else ""
        return f"there is no option {error.option_name}: {close}{help_hint}"
    if isinstance(error, click.MissingParameter):
        return f"{_name(error.param) or 'a value'} is missing: {help_hint}"
    message = error.message.rstrip(".")
    if isinstance(error, click.BadParameter) and error.param and error.param.name:
        source = ctx.get_parameter_source(error.param.name) if ctx else None
        origin = " (from modeledit.toml)" if source == ParameterSource.DEFAULT_MAP else ""
        return f"{_name(error.param)}{origin}: {message}"
    advice = "" if ": " in message else f": {help_hint}"
    return message[:1].lower() + message[1:] + advice


def _name(param: click.Parameter | None) -> str:
    """The longest flag of an option; an argument as the usage line has it."""
    if param is None:
        return ""
    return param.human_readable_name if isinstance(param, click.Argument) else param.opts[-1]
