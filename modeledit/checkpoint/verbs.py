"""What can be done with checkpoints and patches: apply one, take one back.

Models are given as a file or as the directory that holds `model.safetensors`. An output that ends
in `.safetensors` is a file, any other a directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modeledit.checkpoint.base import MODEL, in_directory, read_base
from modeledit.checkpoint.directory import CONFIG, EDIT, UNDO, Staging
from modeledit.checkpoint.layout import canonical_header, chunks
from modeledit.checkpoint.patch import load_patch
from modeledit.checkpoint.store import read_state, write_state
from modeledit.checkpoint.tensors import State, file_digest, identity
from modeledit.checkpoint.undo import Undo, load_undo, take_back
from modeledit.errors import CheckpointError
from modeledit.surgery import apply_to_state


@dataclass(frozen=True)
class Reverted:
    """Where the base was written; `exact`: the very bytes of the original file, whose `sha256` is
    known then. `note` says so."""

    path: Path
    exact: bool
    note: str
    sha256: str | None = None


def apply_edit(base: Path, edit: Path, out: Path, *, force: bool = False) -> Path:
    """Make the edited checkpoint from its base and edit.safetensors; refuses any other base.

    A directory gets the edit and the way back as well, and the config.json beside base or edit.
    """
    inputs = in_directory(base, MODEL), in_directory(edit, EDIT)
    config = _check_out(out, force, inputs)
    start, patch = read_base(inputs[0]), load_patch(inputs[1])
    if start.identity != patch.base:
        raise CheckpointError(
            f"{base} has identity {start.identity[:12]}, but the edit was made for "
            f"{patch.base[:12]}: give the base that it was made for"
        )
    state = apply_to_state(start.state, patch.plan, source=str(base))
    if identity(state) != patch.edited:
        raise CheckpointError(f"{edit} does not lead to the checkpoint it names: fetch it again")
    if config is None:
        write_state(out, state, {**start.metadata, **patch.metadata})
        return out
    with Staging(out, force=force, inputs=inputs) as stage:
        stage.write_edit(start, patch.plan, patch.recipe, config)
        return stage.commit()


def revert(edited: Path, undo: Path | None, out: Path, *, force: bool = False) -> Reverted:
    """Write the base again; a base that was a safetensors file comes back byte for byte.

    undo: the undo file or its directory; None for the one beside `edited`.
    """
    model = in_directory(edited, MODEL)
    record = model.with_name(UNDO) if undo is None else in_directory(undo, UNDO)
    if not record.exists():
        raise CheckpointError(f"{edited} cannot be reverted without {record}: name its undo file")
    config = _check_out(out, force, (model, record))
    kept = load_undo(record)
    state = take_back(read_state(model), kept, str(edited))
    header = base_header(state, kept, record)
    if config is None:
        write_state(out, state, raw_header=header)
    else:
        with Staging(out, force=force, inputs=(model, record)) as stage:
            write_state(stage.path / MODEL, state, raw_header=header)
            stage.write_text(CONFIG, config)
            stage.commit()
    if kept.raw_header is not None:
        return Reverted(out, True, "the base file, byte for byte", kept.sha256)
    note = (
        "the base was no safetensors file: the same tensors, bit by bit, in a new safetensors file"
    )
    return Reverted(out, exact=False, note=note)


def base_header(state: State, undo: Undo, record: Path) -> bytes:
    """The header to write the reverted tensors with, checked against the base file's sha256."""
    if undo.raw_header is None:
        return canonical_header(state, {"format": "pt"})
    if file_digest(chunks(state, undo.raw_header)) != undo.sha256:
        raise CheckpointError(f"{record} was altered: it does not lead back to the base's sha256")
    return undo.raw_header


def _check_out(out: Path, force: bool, inputs: tuple[Path, Path]) -> str | None:
    """Refuse an impossible output; None for a file, else the config.json of the directory."""
    if out.suffix != ".safetensors":
        Staging.check(out, force=force, inputs=inputs)
        return _config(inputs)
    if out.exists() and any(path.exists() and out.samefile(path) for path in inputs):
        raise CheckpointError(f"output {out} is an input: choose another -o")
    if out.exists() and not force:
        raise CheckpointError(f"output {out} exists: choose another -o, or replace it with --force")
    return None


def _config(inputs: tuple[Path, Path]) -> str:
    for path in inputs:
        config = path.with_name(CONFIG)
        if config.is_file():
            return config.read_text(encoding="utf-8")
    raise CheckpointError(
        f"no {CONFIG} beside {inputs[0]} or {inputs[1]}: give an output that ends in .safetensors"
    )
