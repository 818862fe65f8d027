"""`torchvision:NAME[@ROOT]` and torch data sets: what is on disk already; nothing is downloaded."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset, TensorDataset

from modeledit.data.stores import Items
from modeledit.data.tables import UNSPLIT, Table, encode
from modeledit.errors import DataError

DEFAULT_ROOT = "data"
_SPLIT_WORDS = (("train",), ("val", "valid", "validation"), ("test",))


def read_torchvision(spec: str) -> Table:
    """A data set of torchvision.datasets below ROOT (default: data/), all its splits."""
    name, _, root = spec.partition("@")
    root = root or DEFAULT_ROOT
    parts = _splits(name, Path(root).expanduser())
    for dataset in parts.values():
        if not isinstance(dataset[0][0], Image.Image):
            raise DataError(f"torchvision:{name} does not yield images: use a classification set")
    found = [labels_of(dataset, f"torchvision:{name}") for dataset in parts.values()]
    codes, texts = encode(str(label) for labels in found for label in labels.tolist())
    splits = np.repeat(list(parts), [len(labels) for labels in found]).astype(np.int8)
    joined: ConcatDataset[Any] = ConcatDataset(list(parts.values()))
    return Table(
        Items(joined), codes, texts, splits, class_names=class_names_of(joined.datasets[0])
    )


def labels_of(dataset: Dataset[Any], what: str) -> npt.NDArray[np.int64]:
    """(n,) labels; from the data set's own list where it has one, else by reading every item."""
    labels = _listed(dataset)
    try:
        if labels is None:
            labels = [dataset[i][1] for i in range(len(dataset))]  # type: ignore[arg-type]
        found = np.asarray([operator.index(label) for label in labels], dtype=np.int64)
    except (TypeError, ValueError, RuntimeError, IndexError, KeyError, OSError) as error:
        raise DataError(
            f"{what} must have a length and yield (image, integer label): {error}"
        ) from error
    if len(found) == 0 or found.min() < 0:
        raise DataError(f"{what} is empty or has negative labels: labels count from 0")
    return found


def class_names_of(dataset: Any) -> tuple[str, ...] | None:
    """The data set's own class names, if it has a plain list of them."""
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, Sequence) and all(isinstance(name, str) for name in classes):
        return tuple(classes)
    return None


def check_item(dataset: Dataset[Any], what: str) -> None:
    """DataError unless the first item, if readable, is a float tensor (C, H, W) with a label."""
    try:
        item = dataset[0]
    except OSError:  # an unreadable image, named when the split is read
        return
    image = item[0] if isinstance(item, tuple | list) and len(item) == 2 else item
    if not isinstance(image, Tensor) or image.ndim != 3 or not image.is_floating_point():
        came = (
            f"{image.dtype} {tuple(image.shape)}"
            if isinstance(image, Tensor)
            else type(image).__name__
        )
        raise DataError(
            f"{what} yields {came}: (float tensor (C, H, W), label) is needed, "
            "normalised as the model expects"
        )


def _listed(dataset: Any) -> Sequence[Any] | None:
    if isinstance(dataset, Subset):
        inner = _listed(dataset.dataset)
        return None if inner is None else [inner[i] for i in dataset.indices]
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return dataset.tensors[1].tolist()
    if getattr(dataset, "target_transform", None) is not None:
        return None  # the list holds the labels before the transform
    for attribute in ("targets", "labels", "_labels"):
        listed = getattr(dataset, attribute, None)
        with suppress(TypeError):
            if listed is not None and len(listed) == len(dataset):
                return listed.tolist() if isinstance(listed, Tensor | np.ndarray) else list(listed)
    return None


def _splits(name: str, root: Path) -> dict[int, Any]:
    """{split code: data set} of those that are on disk."""
    from torchvision import datasets

    if name not in datasets.__all__:
        raise DataError(f"torchvision has no data set {name!r}: use one such as CIFAR10 or MNIST")
    cls: Any = getattr(datasets, name)
    parameters = inspect.signature(cls).parameters
    options: list[tuple[int, dict[str, Any]]] = [(UNSPLIT, {})]
    if "train" in parameters:
        options = [(0, {"train": True}), (2, {"train": False})]
    elif "split" in parameters:
        options = [(code, {"split": w}) for code, words in enumerate(_SPLIT_WORDS) for w in words]
    found: dict[int, Any] = {}
    reason = "it does not take a folder"
    for code, option in options if "root" in parameters else []:
        try:
            found.setdefault(code, cls(root=str(root), **option))
        except (ValueError, RuntimeError, OSError, TypeError) as error:
            reason = str(error).partition("\n")[0]
    if not found:
        raise DataError(
            f"torchvision:{name} cannot be read in {root}/ and is never downloaded: {reason} "
            f"(put it there, or name its place: torchvision:{name}@DIR)"
        )
    return found
