"""Apply, revert, diff, inspect, verify: on directories and on files."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

import pytest
import torch
from checkpoint_cases import Loaded, metadata, plan, raw_file, tiny, write_directory
from hypothesis import given, settings
from hypothesis import strategies as st

from modeledit.checkpoint import (
    Staging,
    apply_edit,
    diff,
    identity,
    inspect,
    load_patch,
    read_base,
    read_state,
    revert,
    verify,
    write_state,
)
from modeledit.errors import CheckpointError
from modeledit.types import Change, EditPlan

SHARP = EditPlan((Change("w", (2, 2), torch.tensor([0, 3]), torch.tensor([0.0, 0.5])),))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The tiny network's weights in a file with its own layout and metadata."""
    state = dict(reversed(tiny().state_dict().items()))
    path = tmp_path / "base.safetensors"
    path.write_bytes(raw_file(state, {"format": "pt", "note": "line\nline", "z": "ü"}, padding=3))
    return path


@pytest.fixture
def out(base: Path, tmp_path: Path) -> Path:
    return write_directory(tmp_path / "out", Loaded(tiny(), base))


def edited_from(base: Path, edit: EditPlan, out: Path) -> Path:
    with Staging(out) as stage:
        stage.write_edit(read_base(base), edit, "{}", "{}\n")
        return stage.commit()


W = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
LAYOUTS = {
    "canonical order": raw_file({"a": torch.ones(3), "w": W}),
    "unsorted order": raw_file({"w": W, "a": torch.ones(3)}),
    "metadata with newlines": raw_file({"w": W}, {"n": "a\nb\n", "": '\\"é'}),
    "empty metadata": raw_file({"w": W}, {}),
    "odd padding": raw_file({"w": W}, padding=5),
    "mixed dtypes": raw_file(
        {"i": torch.arange(3), "w": W.half(), "b": W.bfloat16(), "u": torch.ones(1).bool()}
    ),
    "bfloat16": raw_file({"w": W.bfloat16()}),
    "zero-size tensors": raw_file({"e": torch.zeros(0, 4), "w": W, "f": torch.zeros(2, 0)}),
    "0-d tensors": raw_file({"n": torch.tensor(5), "w": W, "s": torch.tensor(0.5)}),
    "negative zero": raw_file({"w": -torch.zeros(2, 2)}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_revert_gives_the_same_file(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "base.safetensors"
    path.write_bytes(LAYOUTS[layout])
    out = edited_from(path, SHARP, tmp_path / "out")
    back = revert(out, None, tmp_path / "back.safetensors")
    assert back.exact
    assert back.path.read_bytes() == LAYOUTS[layout]
    assert hashlib.sha256(LAYOUTS[layout]).hexdigest() == back.sha256


FLOATS = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])
VALUES = st.floats(-100, 100, width=16)


@st.composite
def cases(draw: st.DrawFn) -> tuple[bytes, EditPlan]:
    """A file of up to four tensors in any order, and a plan that changes some entries."""
    names = draw(st.permutations(["a", "b.weight", "B", "ü"]))[: draw(st.integers(1, 4))]
    tensors, changes = {}, []
    for name in names:
        shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
        count = torch.Size(shape).numel()
        values = draw(st.lists(VALUES, min_size=count, max_size=count))
        tensors[name] = torch.tensor(values).to(draw(FLOATS)).reshape(shape)
        chosen = sorted(draw(st.sets(st.integers(0, count - 1)))) if count else []
        operand = draw(st.lists(VALUES, min_size=len(chosen), max_size=len(chosen)))
        action = draw(st.sampled_from(["set", "scale"]))
        indices, numbers = torch.tensor(chosen, dtype=torch.int64), torch.tensor(operand)
        changes.append(Change(name, shape, indices, numbers.float().clamp(-1, 1), action))
    changes.sort(key=lambda change: change.tensor)
    metadata = draw(st.none() | st.dictionaries(st.sampled_from("abc"), st.text(max_size=3)))
    return raw_file(tensors, metadata, draw(st.integers(0, 8))), EditPlan(tuple(changes))


@settings(max_examples=20, deadline=None)
@given(cases())
def test_revert_undoes_any_edit(case: tuple[bytes, EditPlan]) -> None:
    content, edit = case
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "base.safetensors"
        path.write_bytes(content)
        out = edited_from(path, edit, Path(folder) / "out")
        assert revert(out, None, Path(folder) / "back.safetensors").path.read_bytes() == content
        assert all(check.passed for check in verify(out))


def test_the_edit_is_what_the_plan_says_and_the_rest_is_bit_equal(base: Path, out: Path) -> None:
    before, after = read_state(base), read_state(out / "model.safetensors")
    expected = {name: tensor.clone() for name, tensor in before.items()}
    expected["0.weight"][0, 0, 0, 1] = 0
    expected["0.weight"][3, 0, 2, 2] = 0
    expected["3.weight"][2] = 2
    assert identity(after) == identity(expected)


def test_apply_makes_the_same_directory_again(base: Path, out: Path, tmp_path: Path) -> None:
    again = apply_edit(base, out, tmp_path / "again")
    for name in ("model.safetensors", "edit.safetensors", "undo.safetensors", "config.json"):
        assert (again / name).read_bytes() == (out / name).read_bytes()


def test_apply_to_a_file_and_revert_with_the_directorys_undo(
    base: Path, out: Path, tmp_path: Path
) -> None:
    single = apply_edit(base, out / "edit.safetensors", tmp_path / "edited.safetensors")
    assert single.read_bytes() == (out / "model.safetensors").read_bytes()
    back = revert(single, out, tmp_path / "back.safetensors")
    assert back.path.read_bytes() == base.read_bytes()


def test_revert_into_a_directory(base: Path, out: Path, tmp_path: Path) -> None:
    back = revert(out, out / "undo.safetensors", tmp_path / "back")
    assert (back.path / "model.safetensors").read_bytes() == base.read_bytes()
    assert (back.path / "config.json").read_bytes() == (out / "config.json").read_bytes()


def test_a_base_without_file_comes_back_as_tensors_and_says_so(tmp_path: Path) -> None:
    module = tiny().to(memory_format=torch.channels_last)
    out = write_directory(tmp_path / "out", Loaded(module))
    back = revert(out, None, tmp_path / "back.safetensors")
    assert not back.exact
    assert "no safetensors file" in back.note
    assert identity(read_state(back.path)) == identity(module.state_dict())


def test_an_edit_for_another_base_is_refused_by_digest(out: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    write_state(other, {"w": W})
    came, wanted = identity({"w": W})[:12], load_patch(out / "edit.safetensors").base[:12]
    with pytest.raises(CheckpointError, match=rf"identity {came}, .*was made for {wanted}"):
        apply_edit(other, out, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_an_edit_that_leads_elsewhere_is_refused(base: Path, out: Path, tmp_path: Path) -> None:
    path = out / "edit.safetensors"
    write_state(path, read_state(path), {**metadata(path), "modeledit.edited": "f" * 64})
    with pytest.raises(CheckpointError, match="does not lead to the checkpoint it names"):
        apply_edit(base, out, tmp_path / "again.safetensors")
    assert not (tmp_path / "again.safetensors").exists()


def test_an_undo_for_another_checkpoint_is_refused_by_digest(
    base: Path, out: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"identity \w{12}, but the undo file belongs to"):
        revert(base, out, tmp_path / "back.safetensors")
    with pytest.raises(CheckpointError, match="cannot be reverted without"):
        revert(base, None, tmp_path / "back.safetensors")
    assert not (tmp_path / "back.safetensors").exists()


def test_a_file_of_another_kind_is_refused(base: Path, out: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds the undo, not the edit"):
        apply_edit(base, out / "undo.safetensors", tmp_path / "again")
    with pytest.raises(CheckpointError, match="holds the model, not the edit"):
        apply_edit(base, base, tmp_path / "again.safetensors")


def test_outputs_are_not_overwritten_and_inputs_never(
    base: Path, out: Path, tmp_path: Path
) -> None:
    taken = tmp_path / "taken.safetensors"
    taken.write_bytes(b"mine")
    with pytest.raises(CheckpointError, match="exists"):
        apply_edit(base, out, taken)
    assert taken.read_bytes() == b"mine"
    assert apply_edit(base, out, taken, force=True).read_bytes() != b"mine"
    content = base.read_bytes()
    with pytest.raises(CheckpointError, match="is an input"):
        apply_edit(base, out, base, force=True)
    with pytest.raises(CheckpointError, match="holds the input"):
        apply_edit(base, out, out, force=True)
    with pytest.raises(CheckpointError, match="holds the input"):
        revert(out, None, out, force=True)
    assert base.read_bytes() == content
    assert all(check.passed for check in verify(out))


def test_a_directory_needs_a_config(base: Path, out: Path, tmp_path: Path) -> None:
    (out / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config.json beside .*: give an output"):
        apply_edit(base, out, tmp_path / "again")
    with pytest.raises(CheckpointError, match="is not there"):
        apply_edit(tmp_path / "nowhere", out, tmp_path / "again")


def test_diff_counts_by_tensor(base: Path, out: Path) -> None:
    found = diff(base, out)
    counts = {t.name: (t.changed, t.total) for t in found.tensors if t.changed}
    assert counts == {"0.weight": (2, 36), "3.weight": (16, 48)}
    assert found.changed == 18
    assert not found.identical
    assert diff(out, out / "model.safetensors").identical


def test_diff_names_what_cannot_be_compared(tmp_path: Path) -> None:
    write_state(tmp_path / "a", {"w": W, "x": W, "h": W})
    write_state(tmp_path / "b", {"w": W, "y": W, "h": W.half()})
    found = diff(tmp_path / "a", tmp_path / "b")
    assert (found.only_a, found.only_b) == (("x",), ("y",))
    assert found.reshaped == {"h": ("F32 [2, 2]", "F16 [2, 2]")}
    assert not found.identical


def test_inspect_shows_origin_and_contents(base: Path, out: Path) -> None:
    found = inspect(out)
    assert found.identity == identity(read_state(out / "model.safetensors"))
    assert found.metadata == {"format": "pt", "note": "line\nline", "z": "ü"}
    assert found.provenance["base"] == inspect(base).identity
    assert found.provenance["edit"] == plan().digest()
    assert found.provenance["recipe"]["strength"] == 0.25
    shapes = {t.name: (t.dtype, t.shape) for t in found.tensors}
    assert shapes["0.weight"] == ("F32", (4, 1, 3, 3))
    assert shapes["1.num_batches_tracked"] == ("I64", ())
    assert inspect(base).provenance == {}
    assert inspect(out / "edit.safetensors").provenance["kind"] == "edit"
