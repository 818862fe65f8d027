"""`verify`: does a checkpoint directory hold what it says it holds?"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from modeledit.checkpoint.base import MODEL
from modeledit.checkpoint.directory import CARD, CONFIG, EDIT, REPORT, UNDO
from modeledit.checkpoint.patch import Patch, load_patch
from modeledit.checkpoint.store import Reader
from modeledit.checkpoint.tensors import identity, same
from modeledit.checkpoint.undo import load_undo, take_back
from modeledit.checkpoint.verbs import base_header
from modeledit.errors import CheckpointError, ModelEditError
from modeledit.surgery import apply_to_state


@dataclass(frozen=True)
class Check:
    """One question put to a directory, in words, and the answer."""

    name: str
    passed: bool
    detail: str


class _Failed(Exception):
    """Carries the detail of a check that failed."""


def verify(directory: Path) -> tuple[Check, ...]:
    """Every check that the files of a checkpoint directory allow; a damaged file fails its checks.

    Without undo.safetensors the edit cannot be replayed, without report.json there are no numbers
    to compare: those checks are left out, and `files` says which files are absent.
    """
    if not directory.is_dir():
        raise CheckpointError(
            f"{directory} is not a directory: verify takes a checkpoint directory"
        )
    folder = _Folder(directory)
    checks = [
        _check("files", folder.files),
        _check("finite", folder.finite),
        _check("edit", folder.edit),
        _check("provenance", folder.provenance),
    ]
    if (directory / UNDO).exists():
        checks.append(_check("undo", folder.undo))
    if (directory / REPORT).exists():
        checks.append(_check("report", folder.report))
    return tuple(checks)


def _check(name: str, question: Callable[[], str]) -> Check:
    try:
        return Check(name, True, question())
    except (_Failed, ModelEditError) as problem:
        return Check(name, False, str(problem))


class _Folder:
    """The questions; each returns what it found or raises."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def files(self) -> str:
        missing = [name for name in (CONFIG, MODEL, EDIT) if not (self.path / name).is_file()]
        if missing:
            raise _Failed(f"missing: {', '.join(missing)}")
        absent = [name for name in (UNDO, REPORT, CARD) if not (self.path / name).is_file()]
        return f"complete; absent: {', '.join(absent)}" if absent else "complete"

    def finite(self) -> str:
        state, _ = self._model()
        return f"{len(state)} tensors, no NaN, no infinity"

    def edit(self) -> str:
        return f"digest {self._patch().plan.digest()[:12]}"

    def provenance(self) -> str:
        state, metadata = self._model()
        patch = self._patch()
        for key, value in patch.metadata.items():
            if metadata.get(key) != value:
                raise _Failed(f"{MODEL} and {EDIT} disagree about {key}")
        _agree("the tensors", identity(state), "the edit's result", patch.edited)
        return f"identity {patch.edited[:12]} is base {patch.base[:12]} with the edit"

    def undo(self) -> str:
        state, _ = self._model()
        patch, kept = self._patch(), load_undo(self.path / UNDO)
        _agree("the undo's base", kept.base, "the edit's", patch.base)
        base = take_back(state, kept, MODEL)
        base_header(base, kept, self.path / UNDO)
        again = apply_to_state(base, patch.plan, source="the base")
        for name, tensor in state.items():
            if not same(tensor, again[name]):
                raise _Failed(f"the edit, applied again to the base, gives another {name}")
        what = f"file, sha256 {kept.sha256[:12]}" if kept.sha256 else "tensors"
        return f"leads back to the base's {what}"

    def report(self) -> str:
        patch, found = self._patch(), self._json(REPORT)
        _agree("the report's base", _at(found, "model", "digest"), "the edit's", patch.base)
        _agree("the report's model", _at(found, "model", "edited"), "the edit's", patch.edited)
        _agree("the report's edit", _at(found, "edit", "digest"), "this edit", patch.plan.digest())
        return "it names this checkpoint; its numbers were not measured again"

    def _model(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        with Reader(self.path / MODEL) as reader:
            return reader.state(), dict(reader.metadata)

    def _patch(self) -> Patch:
        return load_patch(self.path / EDIT)

    def _json(self, name: str) -> Any:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _Failed(f"{name} cannot be read: {error}") from error


def _at(found: Any, *keys: str) -> str:
    for key in keys:
        found = found.get(key, {}) if isinstance(found, dict) else {}
    return found if isinstance(found, str) else "nothing"


def _agree(what: str, found: str, whose: str, wanted: str) -> None:
    if found != wanted:
        raise _Failed(f"{what} is {found[:12]}, {whose} is {wanted[:12]}")
