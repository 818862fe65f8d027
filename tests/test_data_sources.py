"""Every layout gives the same images, labels, groups and splits; the digest tells data apart."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data_files import class_folders, grey, idx, pack, png, tensor, write

from modeledit.data import load_data
from modeledit.errors import DataError
from modeledit.runtime import Runtime

THREE = ("train", "validation", "test")
SHARED = Path(__file__).parents[2] / "shared" / "data"


def load(spec, **options):
    return load_data(str(spec), tensor, **options)


def content(data):
    """{split: [(pixel value, label), ...]}"""
    found = {}
    for split in (data.train, data.validation, data.test):
        batches = list(split.batches(Runtime()))
        pixels = [v for batch in batches for v in batch.images[:, 0, 0, 0].tolist()]
        found[split.name] = list(zip(pixels, split.labels.tolist(), strict=True))
    return found


# Six images: 0 and 1 in train, and so on; the even ones are of class 0.
SIX = {name: [(2.0 * k, 0), (2.0 * k + 1, 1)] for k, name in enumerate(THREE)}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("top", ["", "set/"])
def test_folder_and_zip(tmp_path, method, top):
    files = class_folders(THREE, ("cat", "dog"), 1)
    root = write(tmp_path / "set", files)
    path = pack(tmp_path / "set.zip", {top + n: d for n, d in files.items()}, method)
    for spec in (f"folder:{root}", root, f"folder:{path}", path):
        data = load(spec)
        assert content(data) == SIX
        assert data.class_names == ("cat", "dog")
        assert data.notes == ()
        assert not data.validation_is_training


def test_other_split_names_and_other_files(tmp_path):
    files = class_folders(("train", "val", "test"), ("cat", "dog"), 1)
    other = {
        "README.md": b"x",
        "train/cat/.thumb.png": b"",
        "__MACOSX/a.png": b"",
        "test/cat/t.txt": b"",
        "docs/notes.txt": b"",
    }
    assert content(load(write(tmp_path / "set", {**files, **other}))) == SIX
    assert content(load(pack(tmp_path / "set.zip", {**files, **other}))) == SIX


def test_images_deeper_in_a_class_folder_and_numeric_order(tmp_path):
    names = [f"{k}/deep/er/a.png" for k in range(11)]
    root = write(tmp_path, {name: png(int(name.split("/")[0])) for name in names})
    data = load(root)
    assert data.class_names == tuple(str(k) for k in range(11))  # 2 before 10
    for pairs in content(data).values():
        assert [value for value, _ in pairs] == [label for _, label in pairs]


def test_missing_splits_are_cut(tmp_path):
    data = load(write(tmp_path / "a", class_folders(("train", "test"), ("cat", "dog"), 20)))
    assert [len(s) for s in (data.train, data.validation, data.test)] == [36, 4, 40]
    assert np.bincount(data.validation.labels).tolist() == [2, 2]
    assert data.validation_is_training
    assert "cut from train" in data.notes[0]
    data = load(write(tmp_path / "b", class_folders(("",), ("cat", "dog"), 10)), seed=1)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [12, 4, 4]
    pixels = [value for split in content(data).values() for value, _ in split]
    assert sorted(pixels) == list(range(20))
    assert content(load(tmp_path / "b", seed=1)) == content(data)
    assert content(load(tmp_path / "b", seed=2)) != content(data)


MANIFEST = (
    "\ufeffpath,label,race,gender,split\n"
    "i/0.png,cat,x,f,train\ni/1.png,dog,y,f,train\n"
    "i/2.png,cat,x,m,val\n./i/3.png,dog,y,f,val\n\n"
    "i/../i/4.png,cat,x,f,test\ni/5.png, dog ,y,m,test\n"
)


def manifest_files(text=MANIFEST):
    return {"manifest.csv": text.encode(), **{f"i/{k}.png": png(k) for k in range(6)}}


def test_manifest_in_the_open_and_in_a_zip(tmp_path):
    root = write(tmp_path / "set", manifest_files())
    path = pack(tmp_path / "set.zip", manifest_files())
    for spec in (root, path, f"csv:{path}", f"csv:{root}", root / "manifest.csv"):
        data = load(spec)
        assert content(data) == SIX
        assert data.class_names == ("cat", "dog")
        assert data.train.groups is None
        both = load(spec, group_column=("race", "gender"))
        assert both.validation.groups.tolist() == ["x-m", "y-f"]


def test_an_empty_group_has_a_name(tmp_path):
    rows = "".join(f"i/{k}.png,{k % 2},{'b' * (k % 2)},c\n" for k in range(6))
    root = write(tmp_path, manifest_files("path,label,group,race\n" + rows))
    one, both = load(root), load(root, group_column=("group", "race"))
    assert set(one.train.groups) == {"(missing)", "b"}
    assert set(both.train.groups) == {"(missing)-c", "b-c"}


def test_manifest_labels(tmp_path):
    def labels(values, **options):
        rows = [f"i/{k}.png,{value}" for k, value in enumerate(values)]
        write(tmp_path, manifest_files("path,label,group\n" + "".join(f"{r},g\n" for r in rows)))
        data = load(tmp_path, **options)
        assert data.train.groups.tolist() == ["g"] * len(data.train)
        found = {int(v): label for split in content(data).values() for v, label in split}
        return data.class_names, [found[k] for k in range(len(values))]

    assert labels([0, 3, 0, 3, 1, 2]) == (("0", "1", "2", "3"), [0, 3, 0, 3, 1, 2])
    assert labels([0, 3, 3, 3, 1, 1]) == (("0", "1", "2", "3"), [0, 3, 3, 3, 1, 1])
    assert labels("bbaacc") == (("a", "b", "c"), [1, 1, 0, 0, 2, 2])
    order = ("c", "b", "a", "z")
    assert labels("bbaacc", class_names=order, num_classes=4) == (order, [1, 1, 2, 2, 0, 0])
    assert labels([1, 1, 0, 0, 3, 3], class_names=order) == (order, [1, 1, 0, 0, 3, 3])
    numbers = ("1", "0")  # a name wins over a position
    assert labels([1, 1, 0, 0, 1, 1], class_names=numbers) == (numbers, [0, 0, 1, 1, 0, 0])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("names", ["x_{}|y_{}", "{}_images|{}_labels"])
def test_npz(tmp_path, save, names):
    images, labels = names.split("|")
    arrays = {}
    for k, split in enumerate(("train", "val", "test")):
        arrays[images.format(split)] = grey(2, 2 * k)
        arrays[labels.format(split)] = np.array([[0], [1]], dtype=np.uint8)
    save(tmp_path / "a.npz", **arrays, other=np.zeros(3))
    for spec in (tmp_path / "a.npz", f"npz:{tmp_path / 'a.npz'}"):
        assert content(load(spec)) == SIX


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW1", "RGBA", "F"])
def test_npz_layouts(tmp_path, layout):
    image = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    seen = image
    if layout == "NHW1":
        image = image[..., :1]
        seen = image.repeat(3, axis=3)
    stored = {
        "NCHW": image.transpose(0, 3, 1, 2),
        "RGBA": np.concatenate([image, np.full_like(image[..., :1], 9)], axis=3),
        "F": np.asfortranarray(image),
    }.get(layout, image)
    label = np.array([0, 1])
    arrays = {f"{a}_{s}": v for s in THREE for a, v in (("x", stored), ("y", label))}
    np.savez(tmp_path / "a.npz", **arrays)
    (batch,) = load(tmp_path / "a.npz").test.batches(Runtime())
    assert np.array_equal(batch.images.numpy(), seen.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("packed", [True, False])
def test_idx(tmp_path, packed):
    end = ".gz" if packed else ""
    files = {}
    for k, split in enumerate(("train", "validation", "t10k")):
        files[f"{split}-images-idx3-ubyte{end}"] = idx(grey(2, 2 * k), packed)
        files[f"{split}-labels-idx1-ubyte{end}"] = idx(np.array([0, 1], np.uint8), packed)
    assert content(load(f"idx:{write(tmp_path / 'set', files)}")) == SIX
    assert content(load(f"idx:{pack(tmp_path / 'set.zip', files)}")) == SIX


def test_torchvision(tmp_path, monkeypatch):
    files = {}
    for k, split in enumerate(("train", "t10k")):
        files[f"MNIST/raw/{split}-images-idx3-ubyte"] = idx(grey(10, 10 * k), packed=False)
        labels = np.arange(10, dtype=np.uint8)
        files[f"MNIST/raw/{split}-labels-idx1-ubyte"] = idx(labels, packed=False)
    write(tmp_path / "data", files)
    monkeypatch.chdir(tmp_path)
    for spec in ("torchvision:MNIST", f"torchvision:MNIST@{tmp_path / 'data'}"):
        data = load(spec, num_classes=10)
        assert [len(s) for s in (data.train, data.validation, data.test)] == [9, 1, 10]
        assert content(data)["test"] == [(10.0 + k, k) for k in range(10)]
        assert data.class_names[3] == "3 - three"
        assert data.digest() == load(spec).digest()


def test_limit_is_per_split_stratified_and_seeded(tmp_path):
    root = write(tmp_path, class_folders(THREE, ("cat", "dog"), 10))
    data = load(root, limit=6)
    for split in (data.train, data.validation, data.test):
        assert np.bincount(split.labels).tolist() == [3, 3]
    assert content(load(root, limit=6)) == content(data)
    assert content(load(root, limit=6, seed=1)) != content(data)
    assert content(load(root, limit=99)) == content(load(root))


def test_digest(tmp_path):
    files = class_folders(THREE, ("cat", "dog"), 2)
    one = load(write(tmp_path / "one", files))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert load(tmp_path / "two").digest() == one.digest()  # another place, other times
    assert load(tmp_path / "two", limit=2).digest() != one.digest()
    (tmp_path / "two/train/cat/00.png").write_bytes(b"longer" * 99)
    assert load(tmp_path / "two").digest() != one.digest()
    moved = {("test/dog/00.png" if n == "test/cat/00.png" else n): d for n, d in files.items()}
    packed = [load(pack(tmp_path / f"{k}.zip", f)) for k, f in enumerate((files, moved))]
    same_size = dict(files, **{"test/cat/00.png": files["test/cat/01.png"]})
    packed.append(load(pack(tmp_path / "3.zip", same_size)))
    assert len({data.digest() for data in packed}) == 3
    again = load(pack(tmp_path / "4.zip", files, zipfile.ZIP_STORED))
    assert again.digest() == packed[0].digest()


def test_digest_of_arrays_is_over_their_pixels(tmp_path):
    labels = np.arange(20) % 2
    np.savez(tmp_path / "a.npz", images=grey(20), labels=labels)
    np.savez_compressed(tmp_path / "b.npz", images=grey(20), labels=labels)
    other = grey(20)
    other[7, 0, 0] += 1
    np.savez(tmp_path / "c.npz", images=other, labels=labels)
    digests = [load(tmp_path / f"{name}.npz").digest() for name in "abc"]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "kind", "sizes"),
    [("cifar10.zip", "folder", [45000, 5000, 5000]), ("utkface96.zip", "csv", [10170, 2096, 3105])],
)
def test_real_archives(name, kind, sizes):
    if not (SHARED / name).exists():
        pytest.skip(f"{name} is not here")
    data = load(f"{kind}:{SHARED / name}")
    assert [len(split) for split in (data.train, data.validation, data.test)] == sizes
    loaded = sum(len(b.labels) for b in data.test.sample(256, 0).batches(Runtime()))
    assert (loaded, data.test.unreadable) == (256, ())


@pytest.mark.shared
def test_fashion_mnist_as_debian_ships_it():
    if not shutil.which("dpkg"):
        pytest.skip("no dpkg here")
    command = ["dpkg", "-L", "dataset-fashion-mnist"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    found = [Path(name) for name in listed if name.endswith("train-images-idx3-ubyte.gz")]
    if not found:
        pytest.skip("dataset-fashion-mnist is not installed")
    data = load(f"idx:{found[0].parent}", num_classes=10)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [
        55000,
        5000,
        10000,
    ]
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.train.example().shape == (1, 3, 28, 28)


def test_class_count_is_checked_against_the_model(tmp_path):
    root = write(tmp_path, class_folders(THREE, ("cat", "dog"), 1))
    assert load(root, num_classes=2).class_names == ("cat", "dog")
    with pytest.raises(DataError, match=r"data has 2 classes, the model has 10 outputs"):
        load(root, num_classes=10)
    with pytest.raises(DataError, match=r"--class-names lists 3 classes, the model has 2 outputs"):
        load(root, num_classes=2, class_names=("cat", "dog", "eel"))
