"""Small data sets on disk, in every layout, for the tests of modeledit.data."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIDE = 4


def tensor(image: Image.Image) -> Tensor:
    """(3, H, W), 0 to 255: a preprocessing that hides nothing."""
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).to(torch.float32)


def png(value: int) -> bytes:
    """A grey image of one value, so that a test sees which image it got."""
    file = io.BytesIO()
    Image.fromarray(np.full((SIDE, SIDE, 3), value, np.uint8)).save(file, "PNG")
    return file.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def pack(path: Path, files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def class_folders(
    splits: Iterable[str], classes: Iterable[str], per_class: int
) -> dict[str, bytes]:
    """{SPLIT/CLASS/NN.png: image}; a pixel's value counts up over all of them."""
    prefixes = [f"{split}/{cls}".lstrip("/") for split in splits for cls in classes]
    names = [f"{prefix}/{k:02d}.png" for prefix in prefixes for k in range(per_class)]
    return {name: png(value % 256) for value, name in enumerate(names)}


def idx(array: np.ndarray, packed: bool = True) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    data = head + array.tobytes()
    return gzip.compress(data) if packed else data


def grey(count: int, first: int = 0) -> np.ndarray:
    """(count, SIDE, SIDE) uint8, image k full of first + k."""
    values = np.arange(first, first + count, dtype=np.uint8)
    return np.broadcast_to(values[:, None, None], (count, SIDE, SIDE)).copy()
