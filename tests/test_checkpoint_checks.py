"""`verify`: every part of a directory that was tampered with is noticed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from checkpoint_cases import Loaded, metadata, raw_file, tiny, write_directory

from modeledit.checkpoint import (
    inspect,
    load_patch,
    read_state,
    revert,
    save_patch,
    save_undo,
    verify,
    write_state,
)
from modeledit.checkpoint.base import Base
from modeledit.checkpoint.undo import undo_of
from modeledit.errors import CheckpointError
from modeledit.types import EditPlan


@pytest.fixture
def out(tmp_path: Path) -> Path:
    base = tmp_path / "base.safetensors"
    base.write_bytes(raw_file(tiny().state_dict(), {"note": "line\nline"}))
    return write_directory(tmp_path / "out", Loaded(tiny(), base))


def failed(out: Path) -> set[str]:
    return {check.name for check in verify(out) if not check.passed}


def add_report(out: Path, **other: str) -> None:
    patch = load_patch(out / "edit.safetensors")
    digests = {"base": patch.base, "edited": patch.edited, "edit": patch.plan.digest(), **other}
    model = {"digest": digests["base"], "edited": digests["edited"]}
    report = {"model": model, "edit": {"digest": digests["edit"]}}
    (out / "report.json").write_text(json.dumps(report))


def test_verify_passes_what_was_written(out: Path) -> None:
    assert failed(out) == set()
    assert [check.name for check in verify(out)][-1] == "undo"
    add_report(out)
    assert {check.name for check in verify(out)} == {
        *("files", "finite", "edit", "provenance", "undo", "report")
    }
    assert failed(out) == set()
    (out / "undo.safetensors").unlink()
    assert failed(out) == set()
    assert "absent: undo.safetensors" in verify(out)[0].detail


@pytest.mark.parametrize("key", ["base", "edited", "edit"])
def test_verify_sees_a_report_of_another_checkpoint(out: Path, key: str) -> None:
    add_report(out, **{key: "f" * 64})
    assert failed(out) == {"report"}


def test_verify_sees_a_changed_weight_even_without_undo(out: Path) -> None:
    path = out / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-40] ^= 1
    path.write_bytes(raw)
    assert failed(out) == {"provenance", "undo"}
    (out / "undo.safetensors").unlink()
    assert failed(out) == {"provenance"}


@pytest.mark.parametrize("key", ["base", "edit", "recipe"])
def test_verify_sees_changed_metadata(out: Path, key: str) -> None:
    path = out / "model.safetensors"
    with_key = {**inspect(out).metadata, **metadata(path), f"modeledit.{key}": "{}"}
    write_state(path, read_state(path), with_key)
    assert failed(out) == {"provenance"}


@pytest.mark.parametrize("name", ["edit.safetensors", "undo.safetensors"])
def test_verify_sees_changed_values_in_edit_and_undo(out: Path, name: str) -> None:
    path = out / name
    state = read_state(path)
    floats = [key for key in state if state[key].is_floating_point()]
    state[floats[0]] = state[floats[0]] + 1
    write_state(path, state, metadata(path))
    assert failed(out) == ({"edit", "provenance", "undo"} if "edit" in name else {"undo"})


def test_verify_sees_missing_and_damaged_files(out: Path) -> None:
    add_report(out)
    (out / "report.json").write_text("{")
    assert failed(out) == {"report"}
    (out / "model.safetensors").write_bytes((out / "model.safetensors").read_bytes()[:-8])
    assert failed(out) == {"finite", "provenance", "undo", "report"}
    (out / "model.safetensors").unlink()
    assert "files" in failed(out)
    with pytest.raises(CheckpointError, match="is not a directory"):
        verify(out / "config.json")


def test_an_altered_header_in_the_undo_is_refused(out: Path, tmp_path: Path) -> None:
    path = out / "undo.safetensors"
    state = read_state(path)
    where = bytes(state["base_header"].numpy()).index(b'"note"')
    state["base_header"][where + 1] = ord("N")
    write_state(path, state, metadata(path))
    assert failed(out) == {"undo"}
    with pytest.raises(CheckpointError, match="does not lead back to the base's sha256"):
        revert(out, None, tmp_path / "back.safetensors")
    assert not (tmp_path / "back.safetensors").exists()


def test_verify_sees_an_undo_of_another_base(out: Path) -> None:
    edited = read_state(out / "model.safetensors")
    other = {**edited, "3.bias": edited["3.bias"] + 1}
    save_undo(out / "undo.safetensors", undo_of(Base(other, "other"), edited))
    assert failed(out) == {"undo"}
    assert "the undo's base is" in verify(out)[-1].detail


def test_verify_sees_an_edit_that_does_not_lead_here(out: Path) -> None:
    """Every digest agrees with every other; only replaying the edit shows the difference."""
    path = out / "model.safetensors"
    forged = replace(load_patch(out / "edit.safetensors"), plan=EditPlan(()))
    save_patch(out / "edit.safetensors", forged)
    write_state(path, read_state(path), {**metadata(path), **forged.metadata})
    assert failed(out) == {"undo"}
