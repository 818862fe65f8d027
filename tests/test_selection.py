"""Exact counts, seeded ties, and who comes first."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeledit.errors import ModelEditError
from modeledit.selection import how_many, select


def pick(scores, strength, order="highest", allocation="per-tensor", seed=0):
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.tensor(values) for name, values in scores.items()}
    chosen = select(tensors, strength, order=order, allocation=allocation, generator=generator)
    return {name: indices.tolist() for name, indices in chosen.items()}


def test_shares_mean_the_decimal_as_written():
    assert int(100 * 0.29) == 28  # the trap
    assert how_many(100, 0.29) == 29
    assert how_many(1000, 0.001) == 1
    assert how_many(999, 0.001) == 0
    assert how_many(7, 1.0) == 7
    assert how_many(7, 0.0) == 0
    assert how_many(7, 3) == 3
    assert how_many(7, 30) == 7


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 1000))
def test_shares_are_exact_floors(total, thousandths):
    assert how_many(total, thousandths / 1000) == total * thousandths // 1000


def test_by_hand():
    scores = {"a": [1.0, 5.0, 3.0, 4.0], "b": [9.0, -1.0]}
    assert pick(scores, 0.5) == {"a": [1, 3], "b": [0]}
    assert pick(scores, 0.25) == {"a": [1]}
    assert pick(scores, 0.5, allocation="global") == {"a": [1, 3], "b": [0]}
    assert pick(scores, 2, allocation="global") == {"a": [1], "b": [0]}
    assert pick(scores, 2, order="lowest", allocation="global") == {"a": [0], "b": [1]}
    assert pick(scores, 3) == {"a": [1, 2, 3], "b": [0, 1]}
    assert pick(scores, 0) == {}


def test_ties_are_drawn_by_the_seed_and_only_at_the_edge():
    scores = {"a": [2.0] + [1.0] * 30 + [3.0]}
    first = pick(scores, 7, seed=1)
    assert first == pick(scores, 7, seed=1)
    assert first != pick(scores, 7, seed=2)
    assert {0, 31} <= set(first["a"])
    assert first["a"] == sorted(set(first["a"]))
    assert first["a"] != [*range(6), 31]  # not simply the first ones


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=30),
    st.integers(0, 30),
    st.sampled_from(["highest", "lowest"]),
)
def test_nothing_left_out_is_better(values, count, order):
    chosen = pick({"a": [float(v) for v in values]}, count, order).get("a", [])
    assert len(chosen) == min(count, len(values))
    sign = 1 if order == "highest" else -1
    inside = [sign * values[i] for i in chosen]
    outside = [sign * v for i, v in enumerate(values) if i not in chosen]
    assert not inside or not outside or min(inside) >= max(outside)


@pytest.mark.parametrize(
    ("strength", "message"),
    [
        (-0.1, "strength -0.1 is negative"),
        (-3, "strength -3 is negative"),
        (1.5, "strength 1.5 is above 1"),
    ],
)
def test_bad_strengths_are_refused(strength, message):
    with pytest.raises(ModelEditError, match=message):
        how_many(10, strength)
