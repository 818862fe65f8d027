"""Where the object of a picture is: from the user's masks, or a simple estimate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from modeledit.data import Split
from modeledit.errors import DataError
from modeledit.models import Preprocessing

_SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".jpg", ".jpeg")
_LEAST, _MOST = 0.05, 0.9  # shares of a picture that an object may plausibly take
_BINS = 64


def names(split: Split) -> list[str]:
    """What each image is called in its source."""
    return [str(json.loads(line)[1]) for line in split.fingerprint()]


def read_masks(folder: Path, wanted: Sequence[str], preprocessing: Preprocessing) -> Tensor:
    """(B, H, W) bool, True on the object: pictures named like the images, light on the object.

    They go through the resizing and cropping of the images. One that is missing is a DataError.
    """
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder} of masks: name one, or use no --masks")
    fitting = replace(preprocessing, mean=(0.0,), std=(1.0,), interpolation="nearest")
    found = []
    for name in wanted:
        path = next((p for s in _SUFFIXES if (p := (folder / name).with_suffix(s)).is_file()), None)
        if path is None:
            raise DataError(
                f"{folder} has no mask for {name}: put {Path(name).with_suffix('.png')} there, or "
                "use no --masks for a simple estimate"
            )
        try:
            with Image.open(path) as image:
                found.append(fitting(image)[0] > 0.5)
        except OSError as error:
            raise DataError(f"the mask {path} cannot be read: {error}") from error
    return torch.stack(found)


def estimate(pixels: Tensor) -> Tensor:
    """(B, H, W) bool: what differs in colour from the rim of the picture, in one piece.

    The distance of each pixel from the rim's colours (in units of their spread), weighted towards
    the middle, is cut by Otsu's threshold; the piece with most of the middle is kept and its holes
    are filled. Where that is implausibly small or large an ellipse in the middle stands in.
    """
    return torch.stack([_one(image) for image in pixels])


def _one(image: Tensor) -> Tensor:
    height, width = image.shape[1:]
    flat = image.numpy().astype(np.float64)
    rim = np.concatenate([flat[:, 0], flat[:, -1], flat[:, :, 0], flat[:, :, -1]], axis=1)
    spread = rim.std(axis=1) + 0.05
    distance = np.abs((flat - rim.mean(axis=1)[:, None, None]) / spread[:, None, None]).mean(0)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    smooth = ndimage.gaussian_filter(distance, 0.03 * max(height, width))
    middle = np.exp(-0.5 * (x**2 + y**2))
    weighted = smooth * middle
    pieces, count = ndimage.label(weighted > _otsu(weighted))
    if count:
        sizes = np.bincount(pieces.ravel(), (middle**8).ravel())[1:]
        kept = ndimage.binary_fill_holes(pieces == 1 + int(sizes.argmax()))
        if kept is not None and _LEAST <= kept.mean() <= _MOST:
            return torch.from_numpy(np.asarray(kept, dtype=bool))
    return torch.from_numpy((x / 0.8) ** 2 + (y / 0.8) ** 2 <= 1)


def _otsu(values: np.ndarray) -> float:
    """The threshold that parts a histogram with the largest variance between its sides."""
    counts, edges = np.histogram(values, _BINS)
    middles = (edges[:-1] + edges[1:]) / 2
    below = counts.cumsum()
    above = counts.sum() - below
    total = (counts * middles).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = total / below - (total[-1] - total) / above
        between = np.nan_to_num(below * above * gap**2)
    return float(middles[int(between.argmax())])
