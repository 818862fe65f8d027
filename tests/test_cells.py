"""Cells: goal, prices and whose answers are kept by hand; which images are read."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from modeledit.data import Split
from modeledit.errors import DataError, ModelEditError
from modeledit.runtime import Runtime
from modeledit.scorers import Job
from modeledit.scorers._cells import Cells
from modeledit.targets import Accuracy, AttackSuccess, ForgetClass, GroupRecall
from modeledit.toys import images, net
from modeledit.units import survey

SPLIT = Split.of(images())


def read(target, split=SPLIT, seed=0, retain=None, images=24, retained=24):
    """What is read for a target: {cell: its images' labels}, and the cells."""
    model = net("norm")
    anatomy = survey(model, split.example())
    job = Job(model, {}, anatomy, split, target, Runtime(batch_size=5, seed=seed), retain)
    batches, found = Cells.of(job, images, retained)
    indices = torch.cat([batch.indices for batch in batches])
    assert indices.tolist() == list(range(found.members.shape[1]))
    labels = torch.cat([batch.labels for batch in batches]).numpy()
    by_cell = {n: labels[m].tolist() for n, m in zip(found.names, found.members, strict=True)}
    return by_cell, found, torch.cat([batch.images for batch in batches])


def cells(kinds, worst=False):
    return Cells(tuple("abc"[: len(kinds)]), kinds, np.eye(len(kinds), dtype=bool), worst)


def test_the_goal_and_whose_answers_are_kept_by_hand():
    mean = cells(("levelled", "levelled"))
    losses = np.array([0.4, 0.1])
    assert mean.goal(losses) == pytest.approx(0.25)
    assert mean.keepers(losses).tolist() == [0.5, 0.5]
    worst = cells(("levelled", "levelled"), worst=True)
    third = np.array([0.5, 0.5 - 0.06 * np.log(3)])  # counts a third of the other
    assert worst.goal(third) == pytest.approx(0.5 + 0.06 * np.log(2 / 3))
    assert worst.prices(third).tolist() == pytest.approx([0.75, 0.25])
    assert worst.keepers(third).tolist() == pytest.approx([0.25, 0.75])
    some = cells(("forgotten", "kept", "kept"))
    losses = np.array([0.4, 0.1, 0.2])
    assert some.goal(losses) == pytest.approx(0.4)
    assert some.keepers(losses).tolist() == [0, 0.5, 0.5]
    assert some.signs.tolist() == [1, -1, -1]
    assert cells(("forgotten", "forgotten")).keepers(losses[:2]).tolist() == [0, 0]


def test_prices_are_the_slopes_of_the_goal():
    worst = cells(("levelled",) * 3, worst=True)
    losses, step = np.array([0.31, 0.27, 0.2]), 1e-6
    slopes = (worst.goal(losses + step * np.eye(3)) - worst.goal(losses)) / step
    assert worst.prices(losses) == pytest.approx(slopes, abs=1e-4)


def test_an_attack_is_forgotten_and_clean_images_are_kept():
    rows, labels = images().tensors
    attacked = Split.of(TensorDataset(rows[:6] + 0.1, (labels[:6] + 1) % 3), "train, attacked")
    by_cell, found, _ = read(AttackSuccess(), attacked, retain=SPLIT, retained=12)
    kept = {f"class:{c}": [c] * 4 for c in (0, 1, 2)}
    assert by_cell == {"attacked": [1, 2, 0, 1, 2, 0], **kept}
    assert found.kinds == ("forgotten", "kept", "kept", "kept")
    assert found.signs.tolist() == [1] * 6 + [-1] * 12
    alone, found, _ = read(AttackSuccess(), attacked)
    assert list(alone) == ["attacked"]
    assert found.keepers(np.array([0.5])).tolist() == [0]


def test_of_each_cell_as_many_and_by_the_seed():
    by_cell, found, first = read(ForgetClass((1,)), images=2, retained=5)
    assert by_cell == {"class:0": [0, 0], "class:1": [1, 1], "class:2": [2, 2]}
    assert found.kinds == ("kept", "forgotten", "kept")
    assert torch.equal(first, read(ForgetClass((1,)), images=2, retained=5)[2])
    assert not torch.equal(first, read(ForgetClass((1,)), images=2, retained=5, seed=1)[2])
    everything, found, _ = read(Accuracy(), images=24)
    assert everything == {f"class:{c}": [c] * 8 for c in (0, 1, 2)}
    assert set(found.kinds) == {"forgotten"}


def test_groups_of_a_split():
    split = Split.of(images(), "train")
    split.groups = np.array(["a", "b"] * 3 + ["b"] * 18)
    by_cell, found, _ = read(GroupRecall("worst"), split, images=8)
    assert {name: len(labels) for name, labels in by_cell.items()} == {"a": 3, "b": 4}
    assert found.kinds == ("levelled", "levelled")
    assert found.worst
    assert not read(GroupRecall(), split)[1].worst
    with pytest.raises(DataError, match="group compares groups, and the data has none"):
        read(GroupRecall())
    split.groups = np.array(["a"] * 24)
    with pytest.raises(ModelEditError, match="all images are of group 'a'"):
        read(GroupRecall(), split)
