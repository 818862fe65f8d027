"""The output directory: prepared beside its place, put there whole, or gone without a trace."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from modeledit.checkpoint.atomic import sibling, sync_directory, write_file
from modeledit.checkpoint.base import MODEL, Base, base_of
from modeledit.checkpoint.patch import Patch, save_patch, to_json
from modeledit.checkpoint.store import write_state
from modeledit.checkpoint.tensors import identity
from modeledit.checkpoint.undo import save_undo, undo_of
from modeledit.errors import CheckpointError
from modeledit.surgery import apply_to_state, rename
from modeledit.types import EditPlan

if TYPE_CHECKING:
    from modeledit.models import LoadedModel

CONFIG, EDIT, UNDO = "config.json", "edit.safetensors", "undo.safetensors"
REPORT, CARD = "report.json", "README.md"
Kind = tuple[str, tuple[str, ...]]  # what a directory is, and the files that tell
CHECKPOINT: Kind = ("a checkpoint", (CONFIG, MODEL))


class Staging:
    """A directory in the making: `with Staging(out) as stage: ...; stage.commit()`.

    Leaving without `commit`, by an error or Ctrl-C too, removes everything. An existing `out` is
    refused, or with `force` replaced at the commit if it is of the same kind or empty.
    `inputs` are files that must survive, so an `out` that holds one is refused always.
    """

    def __init__(
        self,
        out: Path,
        *,
        force: bool = False,
        inputs: Sequence[Path] = (),
        kind: Kind = CHECKPOINT,
    ) -> None:
        self._out = out.resolve()
        self._kind = kind
        self._force = force
        self._inputs = tuple(inputs)
        self._made: list[Path] = []
        self.path = sibling(self._out)

    @staticmethod
    def check(
        out: Path,
        *,
        force: bool = False,
        inputs: Sequence[Path] = (),
        kind: Kind = CHECKPOINT,
    ) -> None:
        """Refuse an output that could not be written later: call it before hours of work."""
        try:
            _check_replaceable(out, force, inputs, kind)
            place = out.resolve()
            probe = sibling(_existing(place.parent) / place.name)
            probe.mkdir()
            probe.rmdir()
        except OSError as error:
            raise CheckpointError(
                f"output {out} cannot be written ({error.strerror}): choose another -o"
            ) from error

    def __enter__(self) -> Staging:
        self.check(self._out, force=self._force, inputs=self._inputs, kind=self._kind)
        missing = [place for place in self._out.parents if not place.exists()]
        try:
            for directory in (*reversed(missing), self.path):
                directory.mkdir()
                self._made.append(directory)
        except BaseException:
            self._discard()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: object, trace: TracebackType | None
    ) -> None:
        self._discard()

    def write_text(self, name: str, text: str) -> Path:
        """Add a text file."""
        path = self.path / name
        write_file(path, [text.encode()])
        return path

    def write_model(
        self, loaded: LoadedModel, plan: EditPlan, *, recipe: Mapping[str, Any], undo: bool = True
    ) -> Path:
        """Add the configuration, the edited checkpoint, the edit and, unless told not to, the way
        back; returns the path of the edited checkpoint.

        recipe: how the plan came about (JSON values, nothing that depends on time).
        """
        base = base_of(loaded)
        fitting = rename(plan, loaded.module, base.state)
        config = json.dumps(loaded.config, indent=2, sort_keys=True, default=dict) + "\n"
        return self.write_edit(base, fitting, to_json(recipe), config, undo=undo)

    def write_edit(
        self, base: Base, plan: EditPlan, recipe: str, config: str, *, undo: bool = True
    ) -> Path:
        """`write_model` for a base that is tensors rather than a network."""
        state = apply_to_state(base.state, plan, source=base.source)
        patch = Patch(plan, base.identity, identity(state), recipe)
        path = self.path / MODEL
        write_state(path, state, {**base.metadata, **patch.metadata})
        save_patch(self.path / EDIT, patch)
        if undo:
            save_undo(self.path / UNDO, undo_of(base, state))
        self.write_text(CONFIG, config)
        return path

    def commit(self) -> Path:
        """Put the directory in its place and return that place; nothing can be added after."""
        _check_replaceable(self._out, self._force, self._inputs, self._kind)
        try:
            sync_directory(self.path)
            self._swap()
            sync_directory(self._out.parent)
        except OSError as error:
            raise CheckpointError(
                f"output {self._out} cannot be put in place: {error.strerror}; choose another -o"
            ) from error
        self._made.clear()
        return self._out

    def _swap(self) -> None:
        if not self._out.exists():
            self.path.rename(self._out)
            return
        aside = sibling(self._out)
        try:
            self._out.rename(aside)
            self.path.rename(self._out)
        except BaseException:
            if aside.exists() and not self._out.exists():
                aside.rename(self._out)
            raise
        shutil.rmtree(aside, ignore_errors=True)

    def _discard(self) -> None:
        """Remove the staged files, and the parents made for them where nothing else moved in."""
        for directory in reversed(self._made):
            if directory == self.path:
                shutil.rmtree(directory, ignore_errors=True)
            elif not any(directory.iterdir()):
                directory.rmdir()
        self._made.clear()


def _existing(place: Path) -> Path:
    """The directory itself or the nearest one above it that is there."""
    while not place.exists():
        place = place.parent
    return place


def _check_replaceable(out: Path, force: bool, inputs: Sequence[Path], kind: Kind) -> None:
    place = out.resolve()
    if not (place.exists() or out.is_symlink()):
        return
    if not force:
        raise CheckpointError(f"output {out} exists: choose another -o, or replace it with --force")
    for path in inputs:
        if path.resolve().is_relative_to(place):
            raise CheckpointError(f"output {out} holds the input {path}: choose another -o")
    if not place.is_dir():
        raise CheckpointError(f"output {out} is not a directory: choose another -o")
    what, marks = kind
    if any(place.iterdir()) and not all((place / mark).exists() for mark in marks):
        raise CheckpointError(
            f"output {out} holds other files than {what} and is not replaced, not even with "
            "--force: choose another -o"
        )
