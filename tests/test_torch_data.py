"""Data sets of torch as data."""

from __future__ import annotations

import pytest
import torch
from loading_cases import values
from torch.utils.data import Dataset, Subset, TensorDataset

from modeledit.data import Data, Split
from modeledit.errors import DataError


class Plain(Dataset):
    """Yields (tensor, label) and has no list of labels."""

    def __init__(self, bad=-1):
        self.bad = bad

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index >= 6:
            raise IndexError
        if index == self.bad:
            raise OSError("gone")
        return torch.full((1, 2, 2), float(index)), index % 3


def test_any_torch_data_set():
    images = torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, 1, 2, 2)
    tensors = TensorDataset(images, torch.arange(6) % 3)
    for dataset in (Plain(), tensors, Subset(tensors, list(range(6)))):
        split = Split.of(dataset, "mine")
        assert values(split) == [(float(k), k % 3, k) for k in range(6)]
        assert split.groups is None
    assert values(Split.of(Subset(tensors, [4, 0]))) == [(4.0, 1, 0), (0.0, 0, 1)]


def test_labels_after_a_target_transform():
    dataset = Plain()
    dataset.targets = [9] * 6
    dataset.target_transform = abs
    assert Split.of(dataset).labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_unreadable_item():
    dataset = Plain(bad=4)
    dataset.targets = [0, 1, 2, 0, 1, 2]
    split = Split.of(dataset, max_unreadable=0.5)
    assert [v for v, _, _ in values(split)] == [0, 1, 2, 3, 5]
    assert split.unreadable == ("[4]",)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (TensorDataset(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2).long()), "uint8"),
        (TensorDataset(torch.zeros(2, 4, 4), torch.zeros(2).long()), r"float32 \(4, 4\)"),
        (TensorDataset(torch.zeros(2, 3, 4, 4), torch.zeros(2)), "integer label"),
        (TensorDataset(torch.zeros(2, 3, 4, 4), torch.tensor([0, -1])), "negative"),
        (TensorDataset(torch.zeros(0, 3, 4, 4), torch.zeros(0).long()), "empty"),
        (Plain(bad=4), "gone"),
        (iter([]), "must have a length"),
    ],
)
def test_data_sets_that_do_not_fit(dataset, message):
    with pytest.raises(DataError, match=message):
        Split.of(dataset)


def test_data_of_three_data_sets():
    data = Data.of(Plain(), Plain(), Plain())
    assert data.class_names == ("0", "1", "2")
    assert (data.train.name, data.validation.name, data.test.name) == (
        "train",
        "validation",
        "test",
    )
    assert not data.validation_is_training
    assert data.digest() == Data.of(Plain(), Plain(), Plain()).digest()
    named = Data.of(Plain(), Plain(), Plain(), class_names=("a", "b", "c"))
    assert named.class_names == ("a", "b", "c")
    assert named.digest() != data.digest()
    with pytest.raises(DataError, match="2 class names for labels up to 2"):
        Data.of(Plain(), Plain(), Plain(), class_names=("a", "b"))
