"""What a verb writes: refused before any work where it cannot or must not be written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from modeledit.errors import ModelEditError

if TYPE_CHECKING:
    from modeledit.types import Scores


@dataclass(frozen=True)
class Output:
    """A file or folder to write, and the option that named it."""

    flag: str
    path: Path
    folder: bool = False


def check(outputs: Iterable[Output], inputs: Iterable[Path], *, force: bool) -> None:
    """Refuse what exists (unless `force`), cannot be written, is an input, or is named twice."""
    taken: dict[Path, str] = {}
    reserved = {path.resolve() for path in inputs}
    for output in outputs:
        real = output.path.resolve()
        if real in reserved:
            raise ModelEditError(
                f"{output.flag} {output.path} is an input of this run: name another place"
            )
        for other, flag in taken.items():
            if real == other or other in real.parents or real in other.parents:
                raise ModelEditError(
                    f"{output.flag} {output.path} and {flag} {other.name} are in each other's way: "
                    "name separate places"
                )
        taken[real] = output.flag
        _check_writable(output, force)


def _check_writable(output: Output, force: bool) -> None:
    flag, path = output.flag, output.path
    if path.is_dir() != output.folder and path.exists():
        kind, wanted = ("folder", "file") if path.is_dir() else ("file", "folder")
        raise ModelEditError(f"{flag} {path} is a {kind}: name a {wanted}")
    if path.exists() and not force:
        raise ModelEditError(f"{flag} {path} exists: name another, or replace it with --force")
    parent = path.resolve().parent
    if output.folder:  # its parents are made with it, and tried out by the checkpoint's own check
        return
    if not parent.is_dir():
        raise ModelEditError(f"{flag} {path}: there is no folder {parent}: create it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ModelEditError(f"{flag} {path}: the folder {parent} is not writable: name another")


def record(path: Path) -> Path:
    """Remember that `path` was written, so that an interruption tells the truth."""
    trail = click.get_current_context().find_root().obj
    if isinstance(trail, list):
        trail.append(path)
    return path


def use(scores: Scores, path: Path) -> str:
    """What can be done with scores that were written, a line each."""
    from modeledit.reuse import task_of

    task = task_of(str(scores.header.get("target")))
    verbs = [*([task] if task else []), *(["picture"] if scores.granularity == "filter" else [])]
    return "".join(f"use    modeledit {verb} --scores {path} ...\n" for verb in verbs)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    from modeledit.checkpoint.atomic import write_file

    write_file(path, [text.encode()])
    record(path)
