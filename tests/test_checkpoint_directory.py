"""The output directory: whole, or not there; never over something else."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from checkpoint_cases import RECIPE, Loaded, plan, raw_file, tiny, write_directory
from torch import nn

from modeledit.checkpoint import Staging, base_of, directory, read_base, read_state
from modeledit.errors import CheckpointError
from modeledit.types import Change, EditPlan

FILES = {"README.md", "config.json", "model.safetensors", "edit.safetensors", "undo.safetensors"}


def names(path: Path) -> set[str]:
    return {child.name for child in path.iterdir()}


def test_a_directory_has_its_files_modes_and_provenance(tmp_path: Path) -> None:
    out = write_directory(tmp_path / "deep" / "er" / "out", Loaded(tiny()))
    assert names(out) == FILES
    assert names(tmp_path / "deep" / "er") == {"out"}
    assert stat.S_IMODE((out / "undo.safetensors").stat().st_mode) == 0o600
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    assert out.stat().st_mode == fresh.stat().st_mode
    found = read_base(out).metadata
    assert found["format"] == "pt"
    assert found["modeledit.edit"] == plan().digest()
    assert json.loads(found["modeledit.recipe"]) == RECIPE
    assert json.loads((out / "config.json").read_text()) == {"num_classes": 3}


def test_without_undo_and_without_old_values(tmp_path: Path) -> None:
    with Staging(tmp_path / "out") as stage:
        stage.write_model(Loaded(tiny()), plan(), recipe=RECIPE, undo=False)  # type: ignore[arg-type]
        stage.commit()
    assert "undo.safetensors" not in names(tmp_path / "out")
    kept = read_state(tmp_path / "out" / "edit.safetensors")
    assert set(kept) == {"0.indices", "0.operand", "1.indices", "1.operand"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, None])
def test_leaving_without_commit_leaves_nothing(tmp_path: Path, error: type | None) -> None:
    def work() -> None:
        with Staging(tmp_path / "new" / "out") as stage:
            stage.write_model(Loaded(tiny()), plan(), recipe=RECIPE)  # type: ignore[arg-type]
            if error:
                raise error

    if error:
        with pytest.raises(error):
            work()
    else:
        work()
    assert names(tmp_path) == set()


def test_a_failing_write_leaves_nothing_and_the_old_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_directory(tmp_path / "out", Loaded(tiny()))
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(directory, "save_undo", interrupt)
    with pytest.raises(KeyboardInterrupt), Staging(out, force=True) as stage:
        stage.write_model(Loaded(tiny()), plan(), recipe={})  # type: ignore[arg-type]
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert names(tmp_path) == {"out"}


def test_a_swap_that_fails_halfway_puts_the_old_output_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_directory(tmp_path / "out", Loaded(tiny()))
    real = Path.rename

    def rename(self: Path, target: Path) -> Path:
        if target == out and self == stage.path:
            raise OSError(5, "Input/output error")
        return real(self, target)

    with Staging(out, force=True) as stage:
        monkeypatch.setattr(Path, "rename", rename)
        with pytest.raises(CheckpointError, match="cannot be put in place: Input/output"):
            stage.commit()
    assert names(out) == FILES
    assert names(tmp_path) == {"out"}


def test_an_existing_output_is_refused_and_replaced_with_force(tmp_path: Path) -> None:
    out = write_directory(tmp_path / "out", Loaded(tiny()))
    for check in (Staging.check, lambda path: Staging(path).__enter__()):
        with pytest.raises(CheckpointError, match=r"out exists: choose another -o"):
            check(out)
    with Staging(out, force=True) as stage:
        stage.write_text("new.txt", "new")
        stage.commit()
    assert names(out) == {"new.txt"}
    assert names(tmp_path) == {"out"}


def test_force_spares_what_is_no_checkpoint_directory(tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    Staging.check(out, force=True)
    (out / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds other files than a checkpoint"):
        Staging.check(out, force=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is not a directory"):
        Staging.check(tmp_path / "file", force=True)
    assert names(out) == {"config.json"}


def test_force_spares_the_input(tmp_path: Path) -> None:
    out = write_directory(tmp_path / "out", Loaded(tiny()))
    with pytest.raises(CheckpointError, match="holds the input"):
        Staging.check(out, force=True, inputs=[out / "model.safetensors"])
    Staging.check(out, force=True, inputs=[tmp_path / "base.safetensors"])


def test_an_output_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Staging(out) as stage:
        write_directory(out, Loaded(tiny()))
        with pytest.raises(CheckpointError, match="exists"):
            stage.commit()
    assert names(out) == FILES
    assert names(tmp_path) == {"out"}


def test_an_unwritable_place_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=r"cannot be written \(Not a directory\)"):
        Staging.check(tmp_path / "file" / "out")
    with pytest.raises(CheckpointError, match=r"cannot be written \(File name too long\)"):
        Staging.check(tmp_path / ("x" * 300) / "out")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(CheckpointError, match=r"cannot be written \(Permission denied\)"):
        Staging.check(tmp_path / "a" / "b")
    assert names(tmp_path) == {"file"}


def test_a_base_file_lends_names_dtypes_and_metadata(tmp_path: Path) -> None:
    module = tiny()
    state = {k: v.half() if v.is_floating_point() else v for k, v in module.state_dict().items()}
    module.load_state_dict(state)
    path = tmp_path / "base.safetensors"
    path.write_bytes(raw_file(state, {"author": "me", "modeledit.edit": "old"}))
    out = write_directory(tmp_path / "out", Loaded(module, path))
    assert read_state(out / "model.safetensors")["0.weight"].dtype == torch.float16
    assert read_base(out).metadata["author"] == "me"
    assert read_base(out).metadata["modeledit.edit"] == plan().digest()


def test_a_network_that_is_not_its_file_any_more_is_refused(tmp_path: Path) -> None:
    module = tiny()
    path = tmp_path / "base.safetensors"
    path.write_bytes(raw_file(module.state_dict()))
    loaded = Loaded(module, path)
    assert base_of(loaded).sha256 is not None  # type: ignore[arg-type]
    module[0].weight.data[0] += 1  # type: ignore[union-attr, operator]
    with pytest.raises(CheckpointError, match=r"0.weight in memory is not what"):
        base_of(loaded)  # type: ignore[arg-type]


def test_a_pickled_base_is_taken_from_the_network(tmp_path: Path) -> None:
    module = tiny()
    torch.save(module.state_dict(), tmp_path / "base.pth")
    base = base_of(Loaded(module, tmp_path / "base.pth"))  # type: ignore[arg-type]
    assert base.sha256 is None
    assert base.identity == base_of(Loaded(module)).identity  # type: ignore[arg-type]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(2, 2, bias=False)
        self.two = nn.Linear(2, 2, bias=False)
        self.two.weight = self.one.weight


@pytest.mark.parametrize("held", [("one.weight", "two.weight"), ("two.weight",)])
def test_tied_tensors_are_changed_under_every_name_of_the_file(
    tmp_path: Path, held: tuple[str, ...]
) -> None:
    module = Tied()
    state = {name: module.one.weight.detach() for name in held}
    path = tmp_path / "base.safetensors"
    path.write_bytes(raw_file(state))
    edit = EditPlan((Change("one.weight", (2, 2), torch.tensor([3]), torch.zeros(1)),))
    for number, loaded in enumerate((Loaded(module, path), replace(Loaded(module)))):
        out = write_directory(tmp_path / str(number), loaded, edit)
        found = read_state(out / "model.safetensors")
        assert all(tensor[1, 1] == 0 and tensor[0, 0] != 0 for tensor in found.values())
        assert set(found) == (set(held) if number == 0 else {"one.weight", "two.weight"})
