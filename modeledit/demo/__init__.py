"""A real network and real data that come with the package: scikit-learn's 1,797 digits.

`train.py` beside this file made the checkpoint, from the training split alone.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor

from modeledit.data import Data, Split
from modeledit.data.cutting import complete
from modeledit.data.tables import SPLITS, UNSPLIT
from modeledit.models import LoadedModel, Preprocessing, load_model

ARCHITECTURE = "test_byobnet"
ARGS = {"num_classes": 10, "in_chans": 1}
WEIGHTS = Path(__file__).with_name("digits.safetensors")
NAMES = tuple(map(str, range(10)))
_CUT_SEED = 0  # the checkpoint was trained on this cut: another seed would leak test images
_LIGHTEST = 255 / 16  # the digits have 17 shades


def load(limit: int | None = None, seed: int = 0) -> tuple[LoadedModel, Data]:
    """The trained network and its data; `limit` images per split, drawn by class with the seed."""
    loaded = load_model(
        f"timm:{ARCHITECTURE}",
        WEIGHTS,
        args=ARGS,
        mean=preprocessing().mean,
        std=preprocessing().std,
        input_size=preprocessing().size[0],
        class_names=NAMES,
    )
    data = digits(loaded.preprocessing)
    if limit is None:
        return loaded, data

    def cut(split: Split) -> Split:
        return split.sample(limit, seed)

    return loaded, replace(
        data, train=cut(data.train), validation=cut(data.validation), test=cut(data.test)
    )


def preprocessing() -> Preprocessing:
    """8 x 8 pixels become 32 x 32; mean and deviation are those of the training split."""
    return Preprocessing((32, 32), mean=(0.305,), std=(0.377,))


def digits(transform: Preprocessing) -> Data:
    """60 % train, 20 % validation, 20 % test; the same cut for every seed."""
    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    pixels = np.round(bunch.images * _LIGHTEST).astype(np.uint8)
    rows = complete(np.full(len(labels), UNSPLIT, np.int8), labels, _CUT_SEED).rows
    train, validation, test = (
        Digits(pixels[rows[name]], labels[rows[name]], transform) for name in SPLITS
    )
    return replace(Data.of(train, validation, test, class_names=NAMES), spec="demo:digits")


class Digits:
    """A torch data set: normalised tensors (1, 32, 32) and labels."""

    def __init__(
        self, pixels: npt.NDArray[np.uint8], labels: npt.NDArray[Any], transform: Preprocessing
    ) -> None:
        self._pixels, self.targets, self._transform = pixels, labels.tolist(), transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._pixels[index])), self.targets[index]
