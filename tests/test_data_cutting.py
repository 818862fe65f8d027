"""Draws and cuts: disjoint, complete, stratified, seeded, the same in every process."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeledit.data.cutting import complete, draw
from modeledit.errors import DataError

LABELS = st.lists(st.integers(0, 4), min_size=5, max_size=60).map(np.array)
FEW = settings(max_examples=60, deadline=None)


@FEW
@given(LABELS, st.integers(1, 60), st.integers(0, 3))
def test_draw_is_stratified(labels, count, seed):
    got = draw(labels, count, (seed,))
    assert got.tolist() == sorted(set(got.tolist()))
    assert len(got) == min(count, len(labels))
    sizes, drawn = np.bincount(labels, minlength=5), np.bincount(labels[got], minlength=5)
    assert (drawn <= sizes).all()
    if len(got) >= (sizes > 0).sum():
        assert (drawn[sizes > 0] > 0).all()
    for one in range(5):  # a larger class never gets fewer, an equal one the same, give or take one
        for other in range(5):
            if sizes[one] >= sizes[other]:
                assert drawn[one] >= drawn[other] - (sizes[one] == sizes[other])


def test_draw_by_hand():
    labels = np.repeat([0, 1, 2], [80, 15, 5])
    assert np.bincount(labels[draw(labels, 20, (0,))]).tolist() == [16, 3, 1]
    rare = np.repeat([0, 1], [999, 1])
    assert np.bincount(rare[draw(rare, 10, (0,))]).tolist() == [9, 1]


def test_draw_shares_the_last_places_fairly():
    """With 10 equal classes and 15 places the five extra ones fall on different classes by seed."""
    labels = np.repeat(np.arange(10), 20)
    extra = [tuple(np.bincount(labels[draw(labels, 15, (seed,))]) > 1) for seed in range(8)]
    assert len(set(extra)) > 4


def test_draw_depends_on_the_seed_and_not_on_the_global_generator():
    labels = np.zeros(50, dtype=np.int64)
    np.random.seed(1)  # noqa: NPY002  (to show that it does not matter)
    first = draw(labels, 10, (7,))
    np.random.seed(2)  # noqa: NPY002
    assert draw(labels, 10, (7,)).tolist() == first.tolist()
    assert draw(labels, 10, (8,)).tolist() != first.tolist()


@FEW
@given(LABELS, st.sampled_from([(), (0,), (1,), (2,), (0, 2), (1, 2), (0, 1), (0, 1, 2)]))
def test_cut_is_disjoint_and_complete(labels, present):
    codes = np.full(len(labels), -1, dtype=np.int8)
    if present:
        codes = np.resize(np.array(present, dtype=np.int8), len(labels))
    if (codes == (0 if present == (0, 2) else 1)).sum() < 2 and 1 < len(present) < 3:
        return
    cut = complete(codes, labels, seed=0)
    assert list(np.sort(np.concatenate(list(cut.rows.values())))) == list(range(len(labels)))
    assert sorted(cut.rows) == ["test", "train", "validation"]
    assert all(len(rows) for rows in cut.rows.values())
    assert bool(cut.notes) == (len(present) < 3)
    for code, name in enumerate(("train", "validation", "test")):
        if code in present and len(present) > 1:  # what is there is never taken for another split
            assert set(cut.rows[name]) <= set(np.flatnonzero(codes == code))
    assert cut.validation_is_training == (present in [(), (0,), (0, 2)])


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([0, 0, 0, 100], [60, 20, 20]),  # one split
        ([100, 0, 10, 0], [90, 10, 10]),  # train and test
        ([100_000, 0, 10, 0], [95_000, 5_000, 10]),
        ([0, 100, 10, 0], [50, 50, 10]),  # no train
        ([10, 100, 0, 0], [10, 50, 50]),  # no test
    ],
)
def test_cut_sizes(sizes, expected):
    codes = np.repeat(np.array([0, 1, 2, -1], dtype=np.int8), sizes)
    cut = complete(codes, np.arange(len(codes)) % 2, seed=3)
    assert [len(cut.rows[name]) for name in ("train", "validation", "test")] == expected


def test_note_says_what_was_cut():
    codes = np.repeat(np.array([0, 2], dtype=np.int8), [100, 10])
    note = complete(codes, np.zeros(110, dtype=np.int64), seed=3).notes[0]
    assert note == "no validation split: cut from train, 10 of 100 images (seed 3)"
    alone = complete(np.full(10, -1, dtype=np.int8), np.zeros(10, dtype=np.int64), seed=0).notes[0]
    assert "6 train, 2 validation and 2 test" in alone
    assert "optimistic" in alone


def test_too_few_to_cut():
    with pytest.raises(DataError, match="too few to cut into three"):
        complete(np.full(4, -1, dtype=np.int8), np.zeros(4, dtype=np.int64), seed=0)
    with pytest.raises(DataError, match="too few to cut validation"):
        complete(np.array([0, 2], dtype=np.int8), np.zeros(2, dtype=np.int64), seed=0)


def test_same_cut_under_another_hash_seed():
    code = (
        "import numpy as np; from modeledit.data.cutting import complete;"
        "cut = complete(np.full(50, -1, np.int8), np.arange(50) % 3, 5);"
        "print({name: rows.tolist() for name, rows in cut.rows.items()})"
    )
    seed = str(1 + int(os.environ.get("PYTHONHASHSEED", "0").strip("random") or 0))
    there = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    here = complete(np.full(50, -1, np.int8), np.arange(50) % 3, 5)
    assert there.stdout.strip() == str({name: rows.tolist() for name, rows in here.rows.items()})
