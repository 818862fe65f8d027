"""Running moments against two passes in float64, and the vector cosine by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeledit.measures import Consistency, Effect, Mean, Stability, Variance

NAME = "w"


def fed(measure, gradients, offsets=(), clean=None):
    for i, g in enumerate(gradients):
        measure.update(
            {NAME: torch.as_tensor(g)},
            {NAME: torch.as_tensor(offsets[i])} if len(offsets) else {},
            measure.keep({NAME: torch.as_tensor(clean)}) if clean is not None else {},
        )
    return measure.result(NAME)


def two_rows(_name, tensor):
    return tensor.reshape(2, 2)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=20), st.floats(-1e4, 1e4))
def test_welford_is_the_two_pass_variance(values, shift):
    column = (np.array(values) + shift).astype(np.float32)
    found = fed(Variance(), torch.from_numpy(column)[:, None])
    exact = column.astype(np.float64).var()
    assert found.item() >= 0
    assert found.item() == pytest.approx(exact, rel=1e-3, abs=1e-6 * (1 + abs(shift)) ** 2 * 1e-3)
    mean = fed(Mean(), torch.from_numpy(column)[:, None])
    assert mean.item() == pytest.approx(column.astype(np.float64).mean(), rel=1e-4, abs=1e-2)


def test_a_small_variance_far_from_0_survives():
    values = torch.tensor([10000.0, 10000.1, 10000.2])  # E g^2 - (E g)^2 in float32 gives 0 or 16
    exact = values.double().var(correction=0).item()
    assert fed(Variance(), values[:, None]).item() == pytest.approx(exact, rel=0.02)
    assert fed(Variance(), torch.full((7, 1), 0.1)).item() < 1e-15


def test_signs_by_hand():
    gradients = [[1.0, -2.0, 0.0], [3.0, 4.0, 5.0]]
    offsets = [[-1.0, -1.0, 2.0], [0.0, 2.0, -2.0]]  # W - W_s has the opposite sign
    assert fed(Stability(None), gradients, offsets).tolist() == [0.5, -1.0, 0.5]
    assert fed(Stability(None), gradients).tolist() == [0.0, 0.0, 0.0]
    clean = [2.0, -1.0, 1.0]
    assert fed(Consistency(None), gradients, clean=clean).tolist() == [1.0, 0.0, 0.5]


def test_the_cosine_of_a_filters_vector_by_hand():
    # Two filters of two weights each; W - W_s is (3, 4 | 0, 1).
    gradients = [[4.0, 3.0, 1.0, 0.0], [3.0, 4.0, 0.0, 2.0]]
    offsets = [[-3.0, -4.0, 0.0, -1.0]] * 2
    found = fed(Stability(two_rows), gradients, offsets)
    torch.testing.assert_close(found, torch.tensor([(24 / 25 + 1) / 2, (0.0 + 1.0) / 2]))
    found = fed(Consistency(two_rows), gradients, clean=[1.0, 1.0, -1.0, 1.0])
    want = [7 / (5 * math.sqrt(2)), (-1 / math.sqrt(2) + 1 / math.sqrt(2)) / 2]
    torch.testing.assert_close(found, torch.tensor(want))


def test_cosines_do_not_depend_on_scale_and_are_0_at_a_zero_vector():
    tiny = [[4e-30, 3e-30, 0.0, 0.0]]
    found = fed(Consistency(two_rows), tiny, clean=[3e-30, 4e-30, 1.0, 2.0])
    torch.testing.assert_close(found, torch.tensor([24 / 25, 0.0]))
    same = fed(Consistency(two_rows), [[1e20, 2e20, 1.0, 1.0]], clean=[1e-9, 2e-9, 2.0, 2.0])
    torch.testing.assert_close(same, torch.ones(2))


def test_effects_by_hand():
    weights = {NAME: torch.tensor([1.0, 2.0, 3.0, -4.0])}
    gradients = [[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 0.0, 0.5]]
    assert fed(Effect(weights, None, power=1), gradients).tolist() == [1.0, 2.0, 1.5, 3.0]
    assert fed(Effect(weights, None, power=2), gradients).tolist() == [1.0, 4.0, 4.5, 10.0]
    assert fed(Effect(None, None, power=2), gradients).tolist() == [1.0, 1.0, 0.5, 0.625]
    # Filters: 1+2 and 3-4, then 1-2 and -2, before the power.
    assert fed(Effect(weights, two_rows, power=2), gradients).tolist() == [5.0, 2.5]
    assert fed(Effect(weights, two_rows, power=1), gradients).tolist() == [2.0, 1.5]


def test_a_result_is_forgotten():
    measure = Mean()
    assert fed(measure, [[2.0]]).item() == 2.0
    assert fed(measure, [[4.0]]).item() == 4.0
