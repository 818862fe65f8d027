"""Batches: aligned, ordered, the same for any number of workers; unreadable images counted."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from data_files import SIDE, class_folders, grey, pack, png, tensor, write
from loading_cases import SMALL, values

from modeledit.data import load_data
from modeledit.data.mapped import Mapped
from modeledit.errors import DataError
from modeledit.runtime import Runtime


@pytest.fixture
def archive(tmp_path):
    files = class_folders(("train", "validation", "test"), ("cat", "dog"), 5)
    return pack(tmp_path / "set.zip", files)


def test_images_labels_and_positions_align(archive):
    data = load_data(f"folder:{archive}", tensor)
    # Validation holds images 10 to 19: five cats, then five dogs.
    expected = [(10.0 + k, int(k >= 5), k) for k in range(10)]
    assert values(data.validation) == expected
    assert [len(b.labels) for b in data.validation.batches(SMALL)] == [4, 4, 2]
    assert data.validation.example().shape == (1, 3, SIDE, SIDE)


def test_shuffle_is_seeded_by_seed_and_salt(archive):
    split = load_data(f"folder:{archive}", tensor).train
    plain = values(split)
    first = values(split, shuffle=True)
    assert first != plain
    assert sorted(first) == plain
    assert values(split, shuffle=True) == first
    assert values(split, shuffle=True, salt=1) != first
    assert values(split, Runtime(batch_size=4, seed=1), shuffle=True) != first


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_same_bytes_for_any_number_of_workers(archive, tmp_path, kind):
    np.savez(tmp_path / "a.npz", images=grey(20), labels=np.arange(20) % 2)
    spec = f"folder:{archive}" if kind == "folder" else f"npz:{tmp_path / 'a.npz'}"
    split = load_data(spec, tensor).train
    by_threads = list(split.batches(SMALL, shuffle=True))
    for workers in (1, 2):
        runtime = Runtime(batch_size=4, workers=workers)
        for one, other in zip(split.batches(runtime, shuffle=True), by_threads, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_global_generators_are_not_touched(archive, workers):
    split = load_data(f"folder:{archive}", tensor, limit=8).train
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    values(split, Runtime(batch_size=4, workers=workers), shuffle=True)
    split.sample(3, seed=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


def test_loading_is_lazy(archive):
    loaded = []

    def watching(image):
        loaded.append(1)
        return tensor(image)

    split = load_data(f"folder:{archive}", watching).train
    assert not loaded
    many = split.subset([0] * 400)
    batches = many.batches(Runtime(batch_size=2))
    next(batches)
    batches.close()
    assert len(loaded) <= 2 * 7  # one batch handed out, at most threads + 2 under way


def test_subsets_keep_labels_groups_and_order(tmp_path):
    rows = [f"{k}.png,{k % 2},{'ab'[k % 2]},train" for k in range(6)]
    rows += [f"{k}.png,0,a,{split}" for k, split in ((6, "val"), (7, "test"))]
    manifest = "path,label,group,split\n" + "\n".join(rows)
    files = {f"{k}.png": png(k) for k in range(8)}
    write(tmp_path, {**files, "m.csv": manifest.encode()})
    train = load_data(f"csv:{tmp_path / 'm.csv'}", tensor).train
    part = train.subset([5, 1, 2])
    assert values(part) == [(5.0, 1, 0), (1.0, 1, 1), (2.0, 0, 2)]
    assert part.groups.tolist() == ["b", "b", "a"]
    assert values(train.where(train.labels == 1)) == [(1.0, 1, 0), (3.0, 1, 1), (5.0, 1, 2)]
    assert values(part.subset([2])) == [(2.0, 0, 0)]
    few = train.sample(4, seed=0)
    assert np.bincount(few.labels).tolist() == [2, 2]
    assert [v for v, _, _ in values(few)] == sorted(v for v, _, _ in values(few))
    assert train.sample(100, seed=0) is train
    assert repr(part) == "Split(train, 3 examples, 2 classes)"


@pytest.mark.parametrize("bad", ["mask", "count"])
def test_bad_subsets(archive, bad):
    split = load_data(f"folder:{archive}", tensor).train
    with pytest.raises(DataError, match=r"does not fit|give 1 or more"):
        split.where(np.ones(3, dtype=bool)) if bad == "mask" else split.sample(0, seed=0)


def damaged(tmp_path, bad):
    """Twenty training images, some of them damaged in different ways."""
    files = class_folders(("train", "validation", "test"), ("cat", "dog"), 10)
    wrong = (b"", b"GIF89a", files["train/cat/00.png"][:45], b"\x89PNG\r\n\x1a\n broken")
    for k in range(bad):
        files[f"train/dog/{k:02d}.png"] = wrong[k]
    return write(tmp_path / "set", files)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_images_are_left_out_and_counted(tmp_path, workers):
    data = load_data(f"folder:{damaged(tmp_path, 4)}", tensor, max_unreadable=0.2)
    split = data.train
    assert data.unreadable_notes() == ()
    part = split.where(split.labels == 1)
    found = values(part, Runtime(batch_size=3, workers=workers))
    assert [(value, position) for value, _, position in found] == [
        (14.0 + k, 4 + k) for k in range(6)
    ]
    assert split.unreadable == tuple(f"train/dog/{k:02d}.png" for k in range(4))
    assert part.example()[0, 0, 0, 0] == 14
    values(split)
    assert len(split.unreadable) == 4  # not counted twice
    (note,) = data.unreadable_notes()
    assert note.startswith(
        "4 of 20 images of the train split cannot be read (20.0%, allowed 20.0%)"
    )


def test_too_many_unreadable_images(tmp_path):
    split = load_data(f"folder:{damaged(tmp_path, 4)}", tensor, max_unreadable=0.19).train
    with pytest.raises(DataError) as error:
        values(split)
    message = str(error.value)
    assert "4 of 20 images of the train split cannot be read (20.0%, allowed 19.0%)" in message
    assert "train/dog/00.png" in message
    assert "--max-unreadable" in message
    assert "\n" not in message


def test_share_is_a_decimal(tmp_path):
    """0.29 of 100 images allows 29, although 0.29 * 100 < 29 in floating point."""
    files = class_folders(("train", "validation", "test"), ("cat",), 100)
    files.update({f"train/cat/{k:02d}.png": b"" for k in range(29)})
    root = write(tmp_path, files)
    split = load_data(f"folder:{root}", tensor, max_unreadable=0.29).train
    assert len(values(split)) == 71


def test_nothing_readable(tmp_path):
    split = load_data(f"folder:{damaged(tmp_path, 4)}", tensor, max_unreadable=0.5).train
    part = split.where(split.labels == 1).subset([0, 1])
    with pytest.raises(DataError, match="none of 2 images"):
        values(part)
    with pytest.raises(DataError, match="no image that can be read"):
        part.example()


def test_file_that_vanishes_and_zip_that_is_damaged(tmp_path, archive):
    root = damaged(tmp_path, 0)
    split = load_data(f"folder:{root}", tensor, max_unreadable=0.1).train
    (root / "train/cat/03.png").unlink()
    assert len(values(split)) == 19
    assert split.unreadable == ("train/cat/03.png",)

    split = load_data(f"folder:{archive}", tensor, max_unreadable=0.1).train
    data = bytearray(archive.read_bytes())
    data[60] ^= 255  # inside the first member
    archive.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"damaged in set\.zip"):
        values(load_data(f"folder:{archive}", tensor, max_unreadable=0).train)
    assert len(values(split)) == 9


def test_splits_travel_to_other_processes(archive, tmp_path):
    np.savez(tmp_path / "a.npz", images=grey(20), labels=np.arange(20) % 2)
    for spec in (f"folder:{archive}", f"npz:{tmp_path / 'a.npz'}"):
        split = load_data(spec, tensor).train
        expected = values(split)
        copy = pickle.loads(pickle.dumps(split))
        assert values(copy) == expected
        del copy  # must not take the temporary file along
        assert values(split) == expected


def test_temporary_arrays_are_mapped_and_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    np.savez_compressed(tmp_path / "a.npz", images=grey(60), labels=np.arange(60) % 2)
    split = load_data(f"npz:{tmp_path / 'a.npz'}", tensor).train
    values(split)
    mapped = split._pool.store.parts[0][1]
    assert isinstance(mapped, Mapped)
    assert isinstance(mapped.array, np.memmap)
    assert len(list((tmp_path / "tmp").iterdir())) == 1
    assert len(pickle.dumps(mapped)) < 700  # 960 bytes of pixels stay behind
    del split, mapped
    assert not list((tmp_path / "tmp").iterdir())


def test_a_worker_leaves_the_temporary_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "pixels.u8"
    path.write_bytes(b"x")
    mapped = Mapped(path, (1,), temporary=True)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr("modeledit.data.mapped.os.getpid", lambda: -1)
        del mapped
    assert path.exists()
