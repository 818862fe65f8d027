"""Safetensors in and out: layout, atomicity, permissions, refusals."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from checkpoint_cases import Loaded, raw_file, tiny, write_directory

from modeledit.checkpoint import Reader, atomic, identity, read_state, write_state
from modeledit.checkpoint.layout import canonical
from modeledit.checkpoint.tensors import DTYPES, same
from modeledit.errors import CheckpointError

STATE = {"b": torch.arange(6.0).reshape(2, 3), "a": torch.tensor(7), "é": torch.zeros(0, 2)}


def all_dtypes() -> dict[str, torch.Tensor]:
    data = torch.arange(16, dtype=torch.uint8)
    views = {n: (data > 3) if n == "BOOL" else data.clone().view(t) for n, t in DTYPES.items()}
    return {f"{name}.x": tensor for name, tensor in views.items()}


def test_the_layout_is_the_librarys() -> None:
    state = {**all_dtypes(), **STATE, "z\n\x01": torch.ones(1), "A": torch.ones(2)}
    assert canonical(state, {"k\n": "é\t\x7f"}) == safetensors.torch.save(state, {"k\n": "é\t\x7f"})


def test_reads_what_the_library_wrote_and_back(tmp_path: Path) -> None:
    state = {**all_dtypes(), **STATE}
    safetensors.torch.save_file(state, tmp_path / "x.safetensors")
    found = read_state(tmp_path / "x.safetensors")
    assert all(same(found[name], tensor) for name, tensor in state.items())
    write_state(tmp_path / "y.safetensors", state)
    again = safetensors.torch.load_file(tmp_path / "y.safetensors")
    assert all(same(again[name], tensor) for name, tensor in state.items())


def test_metadata_is_sorted_and_order_of_the_state_does_not_matter() -> None:
    metadata = {"b": "2", "a": "1", "c": "3"}
    one = canonical(STATE, metadata)
    other = canonical(dict(reversed(STATE.items())), dict(reversed(metadata.items())))
    assert one == other
    assert one.index(b'"a":"1"') < one.index(b'"b":"2"') < one.index(b'"c":"3"')


def test_strides_and_ties_do_not_show() -> None:
    weight = torch.arange(24.0).reshape(1, 2, 3, 4)
    strided = {"w": weight.to(memory_format=torch.channels_last), "t": weight[..., 0]}
    plain = {"w": weight.clone(), "t": weight[..., 0].clone()}
    assert canonical(strided, {}) == canonical(plain, {})
    assert identity(strided) == identity(plain)


def test_identity_sees_name_dtype_shape_and_bits_but_not_order() -> None:
    base = {"a": torch.zeros(2), "b": torch.ones(2)}
    assert identity(base) == identity(dict(reversed(base.items())))
    others = [
        {"a": torch.zeros(2), "c": torch.ones(2)},
        {"a": torch.zeros(2, dtype=torch.int32), "b": torch.ones(2)},
        {"a": torch.zeros(2, 1), "b": torch.ones(2)},
        {"a": -torch.zeros(2), "b": torch.ones(2)},
    ]
    assert len({identity(base), *map(identity, others)}) == 5


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_state(tmp_path / "m.safetensors", STATE)
        write_state(tmp_path / "u.safetensors", STATE, mode=0o600)
    finally:
        os.umask(before)
    assert mode(tmp_path / "m.safetensors") == 0o666 & ~umask
    assert mode(tmp_path / "u.safetensors") == 0o600


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_symlink_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "m.safetensors", tmp_path / "link.safetensors"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_state(link, STATE)
    assert link.is_symlink()
    assert target.read_bytes() == canonical(STATE, {})
    assert [p.name for p in target.parent.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_crash_before_the_replacement_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")

    def crash(_fd: int) -> None:
        raise error

    monkeypatch.setattr(atomic.os, "fsync", crash)
    with pytest.raises((KeyboardInterrupt, CheckpointError)):
        write_state(path, STATE)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_lies_is_noticed_and_the_old_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")
    real = atomic.os.fsync

    def corrupt(handle: int) -> None:
        os.pwrite(handle, b"\x01", os.fstat(handle).st_size - 1)
        real(handle)

    monkeypatch.setattr(atomic.os, "fsync", corrupt)
    with pytest.raises(CheckpointError, match="b came back changed"):
        write_state(path, {"b": torch.ones(2)})
    assert path.read_bytes() == b"old"


def test_what_was_read_survives_replacement_and_truncation(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_state(path, {"a": torch.ones(4)})
    with Reader(path) as reader:
        write_state(path, {"a": torch.zeros(4)})
        found = reader.tensor("a")
    path.write_bytes(b"")
    assert found.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2])
def test_not_finite_is_refused_both_ways(tmp_path: Path, bad: float, dtype: torch.dtype) -> None:
    state = {"w": torch.tensor([1.0, bad]).to(dtype)}
    with pytest.raises(CheckpointError, match=r"/out\.safetensors: tensor w holds NaN"):
        write_state(tmp_path / "out.safetensors", state)
    assert not list(tmp_path.iterdir())
    (tmp_path / "in.safetensors").write_bytes(raw_file(state))
    with pytest.raises(CheckpointError, match=r"/in\.safetensors: tensor w holds NaN"):
        read_state(tmp_path / "in.safetensors")


def broken_files() -> dict[str, tuple[bytes, str]]:
    whole = raw_file({"w": torch.ones(4)})
    overlap = whole.replace(b"[0, 16]", b"[4, 20]")
    return {
        "empty": (b"", "not a safetensors file"),
        "text": (b"hello world, this is no checkpoint", "not a safetensors file"),
        "zip": (b"PK\x03\x04" + b"\0" * 99, "is a pickle"),
        "pickle": (b"\x80\x02}q\x00." + b"\0" * 99, "is a pickle"),
        "short header": (whole[:20], "cut short in its header"),
        "truncated": (whole[:-1], "truncated.*16 bytes of tensors, 15 follow"),
        "too long": (whole + b"x", "too long"),
        "offsets": (overlap, "broken safetensors header: w"),
        "dtype": (whole.replace(b'"F32"', b'"F99"'), "dtype F99 is not one of"),
        "shape": (whole.replace(b"[4]", b"[5]"), "broken safetensors header: w"),
        "json": (whole.replace(b'"shape"', b'"shape '), "broken safetensors header"),
        "list": (struct.pack("<Q", 10) + b'{"a": [1]}', "broken safetensors header"),
    }


@pytest.mark.parametrize("name", broken_files())
def test_a_broken_file_is_named_with_its_cause(tmp_path: Path, name: str) -> None:
    content, message = broken_files()[name]
    path = tmp_path / "odd.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_state(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_missing_tensor_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"x.safetensors cannot be read: No such file"):
        read_state(tmp_path / "x.safetensors")
    write_state(tmp_path / "x.safetensors", STATE)
    with (
        Reader(tmp_path / "x.safetensors") as reader,
        pytest.raises(CheckpointError, match="has no tensor q"),
    ):
        reader.tensor("q")


@pytest.mark.parametrize("length", [128, 640])
def test_a_header_that_begins_like_a_pickle_is_read(tmp_path: Path, length: int) -> None:
    raw = raw_file({"w": torch.ones(1)})
    raw = raw_file({"w": torch.ones(1)}, padding=length - struct.unpack("<Q", raw[:8])[0])
    (tmp_path / "x.safetensors").write_bytes(raw)
    assert read_state(tmp_path / "x.safetensors")["w"].tolist() == [1]


@pytest.mark.parametrize("value", [torch.zeros(1, dtype=torch.complex128), "text"])
def test_what_a_file_cannot_hold_is_refused(value: torch.Tensor) -> None:
    with pytest.raises(CheckpointError, match=r"w is .*, which cannot be written"):
        identity({"w": value})


def test_an_unwritable_place_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"m.safetensors cannot be written: No such file"):
        write_state(tmp_path / "none" / "m.safetensors", STATE)


def test_same_bytes_in_another_process(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from checkpoint_cases import *\n"
        "write_directory(Path(sys.argv[1]), Loaded(tiny()))"
    )
    other, here = tmp_path / "other", write_directory(tmp_path / "here", Loaded(tiny()))
    env = {**os.environ, "PYTHONHASHSEED": "12345"}
    subprocess.run([sys.executable, "-c", code, str(other)], env=env, check=True)
    files = {path.name: path.read_bytes() for path in here.iterdir()}
    assert files == {path.name: path.read_bytes() for path in other.iterdir()}
    assert set(files) >= {"model.safetensors", "edit.safetensors", "undo.safetensors"}
