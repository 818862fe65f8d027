"""`npz:` and `idx:`: uint8 images in arrays, mapped from disk and never held in memory whole."""

from __future__ import annotations

import gzip
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from modeledit.data.mapped import Mapped, Readable, check_size, spool
from modeledit.data.stores import ArrayImages
from modeledit.data.tables import UNSPLIT, Table, encode, split_code
from modeledit.data.trees import DiskTree, Tree, open_tree
from modeledit.errors import DataError

Labels = npt.NDArray[Any]
Parts = Mapping[int, tuple[str, Mapped, Labels]]  # by split code: name, images, labels

_NPZ = re.compile(r"x_(?P<x>\w+)|(?:(?P<named>\w+)_)?images")
_NPZ_LABELS = re.compile(r"y_(?P<x>\w+)|(?:(?P<named>\w+)_)?labels")
_IDX = re.compile(r"(?P<split>\w+?)[-_.](?P<what>images|labels)[-.]idx\d[-.]ubyte(?:\.gz)?")
_IDX_UBYTE = 8


def read_npz(path: Path) -> Table:
    """Arrays x_SPLIT and y_SPLIT, SPLIT_images and SPLIT_labels, or images and labels.

    Images: uint8 (n, H, W), (n, H, W, C) or (n, C, H, W) with C of 1, 3 or 4. Labels: integers,
    (n,) or (n, 1). Other arrays are ignored.
    """
    if not path.is_file():
        raise DataError(f"there is no {path}: give an .npz file")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name[:-4]: name for name in archive.namelist() if name.endswith(".npy")}
            images = _by_split(path, members, _NPZ)
            labels = _by_split(path, members, _NPZ_LABELS)
            _check_pairs(path, images, labels, "x_train and y_train, or images and labels")
            parts = {}
            for code in sorted(images):
                with archive.open(members[labels[code]]) as file:
                    truth = _npy_labels(f"{labels[code]} in {path}", file)
                with archive.open(members[images[code]]) as file:
                    pixels = _npy_images(f"{images[code]} in {path}", file)
                parts[code] = (images[code], pixels, truth)
    except zipfile.BadZipFile as error:
        raise DataError(f"{path} is not an .npz, or is damaged: {error}") from error
    return _table(path, parts)


def read_idx(path: Path) -> Table:
    """Files named like MNIST's (train-images-idx3-ubyte[.gz], t10k-labels-idx1-ubyte, ...)."""
    tree = open_tree(path)
    images: dict[int, str] = {}
    labels: dict[int, str] = {}
    for name in tree.names():
        match = _IDX.fullmatch(name)
        code = split_code(match["split"].replace("t10k", "test")) if match else None
        if match and code is not None:
            # A file that is there both plain and gzipped is read plain: the names are sorted.
            (images if match["what"] == "images" else labels).setdefault(code, name)
    _check_pairs(path, images, labels, "train-images-idx3-ubyte and train-labels-idx1-ubyte")
    parts = {
        code: (images[code], _idx(path, tree, images[code]), _idx_labels(path, tree, labels[code]))
        for code in sorted(images)
    }
    return _table(path, parts)


def _by_split(path: Path, members: Mapping[str, str], pattern: re.Pattern[str]) -> dict[int, str]:
    """{split code: array name}."""
    found: dict[int, str] = {}
    for name in sorted(members):
        match = pattern.fullmatch(name)
        if not match:
            continue
        word = match["x"] or match["named"]
        code = split_code(word) if word else UNSPLIT
        if code is None:
            continue
        if code in found:
            raise DataError(f"{path} has both {found[code]} and {name}: keep one of them")
        found[code] = name
    return found


def _check_pairs(
    path: Path, images: Mapping[int, str], labels: Mapping[int, str], needed: str
) -> None:
    if not images or set(images) != set(labels):
        have = ", ".join(sorted([*images.values(), *labels.values()])) or "none of these"
        raise DataError(f"{path} holds {have}: images and labels are needed in pairs ({needed})")
    if UNSPLIT in images and len(images) > 1:
        raise DataError(f"{path} holds {images[UNSPLIT]} beside split arrays: keep one kind")


def _table(path: Path, parts: Parts) -> Table:
    for name, images, labels in parts.values():
        _check_images(f"{name} in {path}", images.shape)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.shape != images.shape[:1]:
            raise DataError(
                f"{name} in {path}: {images.shape[0]} images, but labels of shape {labels.shape}: "
                "one label per image is needed"
            )
    found = (labels.ravel().tolist() for _, _, labels in parts.values())
    codes, texts = encode(str(label) for labels in found for label in labels)
    splits = np.repeat(list(parts), [len(labels) for _, _, labels in parts.values()])
    store = ArrayImages([(name, images) for name, images, _ in parts.values()])
    return Table(store, codes, texts, splits.astype(np.int8))


def _check_images(what: str, shape: tuple[int, ...]) -> None:
    channels = (1,) if len(shape) == 3 else shape[1::2]  # second or last of four
    if len(shape) not in (3, 4) or 0 in shape or not {1, 3, 4} & set(channels):
        raise DataError(f"{what} has shape {shape}: give (n, H, W), (n, H, W, C) or (n, C, H, W)")


def _npy_header(what: str, file: Readable) -> tuple[tuple[int, ...], Literal["C", "F"], Any]:
    try:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(file)
    except ValueError as error:
        raise DataError(f"{what} is not an array that numpy wrote: {error}") from error
    return shape, "F" if fortran else "C", dtype


def _npy_images(what: str, file: Readable) -> Mapped:
    shape, order, dtype = _npy_header(what, file)
    if dtype != np.uint8:
        raise DataError(f"{what} is {dtype}: save images as uint8, 0 to 255")
    _check_images(what, shape)
    return spool(file, shape, what, order)


def _npy_labels(what: str, file: Readable) -> Labels:
    shape, order, dtype = _npy_header(what, file)
    if dtype.kind not in "iuU":
        raise DataError(f"{what} is {dtype}: save labels as integers or text")
    data = file.read()
    check_size(what, math.prod(shape) * dtype.itemsize, len(data))
    return np.frombuffer(data, dtype).reshape(shape, order=order)


def _idx(path: Path, tree: Tree, name: str) -> Mapped:
    what = f"{name} in {path}"
    with tree.open(name) as raw:
        if not name.endswith(".gz"):
            shape, offset = _idx_header(what, raw)
            if isinstance(tree, DiskTree):
                size = (tree.root / name).stat().st_size
                check_size(what, math.prod(shape), size - offset)
                return Mapped(tree.root / name, shape, offset)
            return spool(raw, shape, what)
        try:
            with gzip.open(raw) as file:
                shape, _ = _idx_header(what, file)
                return spool(file, shape, what)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{what} is damaged: {error}") from error


def _idx_labels(path: Path, tree: Tree, name: str) -> Labels:
    return np.array(_idx(path, tree, name).array)


def _idx_header(what: str, file: Readable) -> tuple[tuple[int, ...], int]:
    """Shape and length of the header: two zeros, type, rank, then big-endian lengths."""
    magic = file.read(4)
    if len(magic) < 4 or magic[:3] != bytes([0, 0, _IDX_UBYTE]) or not 1 <= magic[3] <= 4:
        raise DataError(f"{what} is not an idx file of unsigned bytes (first bytes {magic.hex()})")
    rank = magic[3]
    lengths = file.read(4 * rank)
    if len(lengths) < 4 * rank:
        raise DataError(f"{what} is cut short in its header: replace it")
    shape = struct.unpack(f">{rank}I", lengths)
    if 0 in shape:
        raise DataError(f"{what} is empty (shape {shape}): replace it")
    return shape, 4 + 4 * rank
