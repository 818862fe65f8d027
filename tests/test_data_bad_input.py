"""Bad data: one DataError, one line, that names what came and what to do."""

from __future__ import annotations

import gc
import gzip

import numpy as np
import pytest
from data_files import class_folders, grey, idx, pack, png, tensor, write

from modeledit.data import load_data
from modeledit.errors import DataError

THREE = ("train", "validation", "test")


def refuse(spec, *parts, **options):
    with pytest.raises(DataError) as error:
        load_data(str(spec), tensor, **options)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("kind", ["folder", "csv", "npz", "idx", "torchvision"])
@pytest.mark.parametrize("end", ["", ".zip"])
def test_nothing_there(tmp_path, kind, end):
    place = tmp_path / f"absent{end}"
    spec = f"torchvision:MNIST@{place}" if kind == "torchvision" else f"{kind}:{place}"
    refuse(spec, str(place))


def test_unknown_specifications(tmp_path):
    refuse("nowhere", "'nowhere'", "folder:, csv:, npz:, idx:, torchvision:")
    refuse("zarr:x", "'zarr:x'")
    refuse("folder:", "'folder:'")
    refuse("torchvision:NoSuchSet", "'NoSuchSet'")
    refuse(f"torchvision:CIFAR10@{tmp_path}", "CIFAR10", "never downloaded")
    refuse(f"torchvision:FakeData@{tmp_path}", "does not take a folder")
    (tmp_path / "a.txt").write_text("x")
    refuse(tmp_path / "a.txt", "neither a directory nor a .zip")


def test_options_out_of_range(tmp_path):
    root = write(tmp_path, class_folders(THREE, ("cat", "dog"), 1))
    refuse(root, "--limit 0", limit=0)
    refuse(root, "--max-unreadable 2", max_unreadable=2)
    refuse(root, "no column 'race'", group_column=("race",))


def test_zip_that_is_none_and_zip_cut_short(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"no zip at all")
    refuse(f"folder:{tmp_path / 'a.zip'}", "a.zip is not a zip")
    whole = pack(tmp_path / "b.zip", class_folders(THREE, ("cat",), 2)).read_bytes()
    (tmp_path / "b.zip").write_bytes(whole[:-200])
    refuse(f"folder:{tmp_path / 'b.zip'}", "b.zip is not a zip")


def test_zip_packed_by_another_method(tmp_path):
    path = pack(tmp_path / "a.zip", class_folders(THREE, ("cat",), 2), 12)  # bzip2
    refuse(path, "method 12", "stored (0) and deflated (8)")


@pytest.mark.parametrize(
    ("extra", "parts"),
    [
        ({"other/cat/a.png": b""}, ["'other' beside train/validation/test"]),
        ({"train/a.png": b""}, ["train/a.png", "outside the class folders"]),
        ({"train/eel/": b""}, ["train/eel holds no image"]),
        ({"test/eel/a.png": b""}, ["the test split has the class eel", "train lacks"]),
    ],
)
def test_odd_folders(tmp_path, extra, parts):
    files = class_folders(THREE, ("cat", "dog"), 1)
    refuse(pack(tmp_path / "set.zip", {**files, **extra}), *parts)
    root = write(tmp_path / "set", files)
    for name in extra:
        if name.endswith("/"):
            (root / name).mkdir()
        else:
            write(root, {name: b""})
    refuse(root, *parts)


def test_class_that_only_test_has_is_fine_when_the_classes_are_given(tmp_path):
    files = {**class_folders(THREE, ("cat", "dog"), 1), "test/eel/a.png": png(0)}
    names = ("cat", "dog", "eel")
    data = load_data(str(write(tmp_path, files)), tensor, class_names=names, num_classes=3)
    assert data.test.labels.tolist() == [0, 1, 2]


def test_no_image_and_empty_split(tmp_path):
    (tmp_path / "a/cat").mkdir(parents=True)
    refuse(f"folder:{tmp_path / 'a'}", "holds no image", ".jpg")
    root = write(tmp_path / "b", class_folders(("train", "test"), ("cat", "dog"), 9))
    (root / "validation").mkdir()
    refuse(root, "folder validation holds no image")


def test_names_that_do_not_match(tmp_path):
    root = write(tmp_path, class_folders(THREE, ("cat", "dog"), 1))
    refuse(root, "label dog is not among the 2 classes", "cat, eel", class_names=("cat", "eel"))
    refuse(root, "class names must differ", class_names=("cat", "cat"))


HEAD = "path,label,split\n"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["(none)", "no path"]),
        (HEAD, ["no rows"]),
        ("path,split\na.png,train\n", ["columns path, split", "no label"]),
        ("path,label,label\na.png,1,1\n", ["twice"]),
        (HEAD + "a.png,1,train\na.png,1\n", ["line 3", "2 cells", "header 3"]),
        (HEAD + "a.png,,train\n", ["line 2", "no label"]),
        (HEAD + ",1,train\n", ["line 2", "no path"]),
        (HEAD + "a.png,1,holdout\n", ["line 2", "'holdout'", "train, validation or test"]),
        (HEAD + "a.png,1,\n", ["line 2", "''"]),
        (HEAD + 'a.png,"1,train\n', ["not a CSV file"]),
        (HEAD + "a.png,-1,train\na.png,0,test\n", ["label -1", "count from 0"]),
        (HEAD + "a.png,99999999,train\na.png,0,test\n", ["label 99999999"]),
        (HEAD + "a.png,0,train\na.png,1,test\n", ["test split has the class 1"]),
    ],
)
def test_bad_manifests(tmp_path, text, parts):
    root = write(tmp_path, {"manifest.csv": text.encode(), "a.png": png(0)})
    refuse(f"csv:{root}", *parts)


def test_manifest_columns_encoding_and_place(tmp_path):
    rows = "".join(f"a.png,{k % 2},{s}\n" for s in THREE for k in range(2))
    root = write(tmp_path, {"manifest.csv": (HEAD + rows).encode(), "a.png": png(0)})
    refuse(root, "columns path, label, split", "no race", group_column=("race", "split"))
    write(root, {"latin.csv": (HEAD + "\xe9.png,1,train\n").encode("latin-1")})
    refuse(root / "latin.csv", "UTF-8")
    (root / "manifest.csv").unlink()
    refuse(f"csv:{root}", "no manifest.csv at its root")


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        ({"images": grey(9), "labels": np.arange(8)}, ["9 images", "labels of shape (8,)"]),
        ({"images": grey(9), "labels": np.eye(9, dtype=int)}, ["labels of shape (9, 9)"]),
        ({"images": grey(9) / 255, "labels": np.arange(9)}, ["float64", "uint8"]),
        ({"images": grey(9), "labels": np.arange(9) / 2}, ["labels", "float64", "integers"]),
        ({"images": grey(9), "labels": np.array([None] * 9)}, ["object"]),
        ({"images": grey(9)[:, 0], "labels": np.arange(9)}, ["shape (9, 4)", "(n, H, W)"]),
        ({"images": np.zeros((9, 5, 5, 2), np.uint8), "labels": np.arange(9)}, ["(9, 5, 5, 2)"]),
        ({"images": grey(0), "labels": np.arange(0)}, ["shape (0, 4, 4)"]),
        ({"images": grey(9)}, ["holds images", "in pairs"]),
        ({"pictures": grey(9)}, ["none of these"]),
        ({"x_train": grey(9), "y_test": np.arange(9)}, ["x_train, y_test", "in pairs"]),
        ({"x_val": grey(1), "val_images": grey(1)}, ["both", "val_images", "x_val"]),
        (
            {"images": grey(1), "labels": np.arange(1), "x_test": grey(1), "y_test": np.arange(1)},
            ["images beside split arrays"],
        ),
    ],
)
def test_bad_npz(tmp_path, arrays, parts):
    np.savez(tmp_path / "a.npz", **arrays)
    refuse(tmp_path / "a.npz", *parts)


def test_damaged_npz(tmp_path):
    np.savez(tmp_path / "a.npz", images=grey(20), labels=np.arange(20) % 2)
    data = bytearray((tmp_path / "a.npz").read_bytes())
    (tmp_path / "a.npz").write_bytes(data[:-50])
    refuse(tmp_path / "a.npz", "not an .npz, or is damaged")
    data[250] ^= 255  # a pixel
    (tmp_path / "a.npz").write_bytes(data)
    refuse(tmp_path / "a.npz", "damaged")
    pack(tmp_path / "b.npz", {"images.npy": b"no array", "labels.npy": b"none"})
    refuse(tmp_path / "b.npz", "labels in", "not an array")
    label = np.arange(4).tobytes()
    head = b"{'descr': '<i8', 'fortran_order': False, 'shape': (9,)}".ljust(69)
    head = b"\x93NUMPY\x01\x00\x46\x00" + head
    pack(tmp_path / "c.npz", {"images.npy": b"", "labels.npy": head + b"\n" + label})
    refuse(tmp_path / "c.npz", "72 bytes expected, 32 found")


IMAGES = idx(grey(20), packed=False)
LABELS = idx(np.arange(20, dtype=np.uint8) % 2, packed=False)


@pytest.mark.parametrize(
    ("images", "labels", "parts"),
    [
        (IMAGES[:-3], LABELS, ["320 bytes expected, 317 found"]),
        (IMAGES + b"x", LABELS, ["320 bytes expected, more found"]),
        (IMAGES[:9], LABELS, ["cut short in its header"]),
        (b"\x00\x00\x0d\x03" + IMAGES[4:], LABELS, ["00000d03", "unsigned bytes"]),
        (b"", LABELS, ["unsigned bytes"]),
        (IMAGES, idx(np.zeros(19, np.uint8), packed=False), ["20 images", "shape (19,)"]),
        (idx(grey(0), packed=False), LABELS, ["is empty"]),
        (IMAGES, None, ["in pairs"]),
    ],
)
def test_bad_idx(tmp_path, images, labels, parts):
    files = {"train-images-idx3-ubyte": images, "train-labels-idx1-ubyte": labels}
    files = {name: data for name, data in files.items() if data is not None}
    packed = {f"{name}.gz": gzip.compress(data) for name, data in files.items()}
    for place in (
        write(tmp_path / "open", files),
        write(tmp_path / "packed", packed),
        pack(tmp_path / "set.zip", files),
    ):
        refuse(f"idx:{place}", *parts)


def test_truncated_gzip(tmp_path):
    rng = np.random.default_rng(0)
    data = idx(rng.integers(0, 256, (20, 4, 4), dtype=np.uint8))
    labels = idx(np.zeros(20, np.uint8))
    for k, wrong in enumerate(
        (data[:-30], b"no gzip" + data, data[:40] + b"\xff" * 60 + data[100:])
    ):
        files = {"train-images-idx3-ubyte.gz": wrong, "train-labels-idx1-ubyte.gz": labels}
        root = write(tmp_path / str(k), files)
        refuse(f"idx:{root}", "train-images-idx3-ubyte.gz", "is damaged")


def test_no_temporary_file_is_left_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    np.savez(tmp_path / "a.npz", images=grey(9), labels=np.arange(8))
    refuse(tmp_path / "a.npz", "9 images")
    gc.collect()  # the traceback kept the array alive
    assert not list((tmp_path / "tmp").iterdir())
