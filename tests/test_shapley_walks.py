"""Walks along permutations: cut short, truncated, shortened by who left."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapley_games import Fixed, game, planted, random_game, spent

from modeledit.shapley import Flips, State, Task, Truncation, evaluate
from modeledit.shapley.permutation import Antithetic, Permutation
from modeledit.shapley.walks import walk


def test_below_one_walk_the_rest_is_shared():
    played = planted(9, 3)
    found = spent(Permutation(), played, 5)
    order = Permutation().order(State(9, 1, 0), 1)
    alive = torch.ones(9, dtype=torch.bool)
    values = [played.value(alive)]
    for player in order[:3]:
        alive[player] = False
        values.append(played.value(alive))
    assert found.values[order[:3]] == pytest.approx(-np.diff(values, axis=0))
    rest = found.values[order[3:], 0]
    assert rest == pytest.approx(np.full(6, (values[-1] - played.value(alive & False)).item() / 6))
    assert np.isinf(found.half_width).all()


def test_a_cut_walk_does_not_count_beside_whole_ones():
    played = random_game()
    whole = spent(Permutation(), played, 2 + 2 * 5)
    cut = spent(Permutation(), played, 2 + 2 * 5 + 3)
    assert (whole.values == cut.values).all()
    assert cut.evaluations == whole.evaluations + 3


def test_the_first_walk_of_a_pair_counts_as_one_walk():
    played = random_game()
    two, three = (spent(Antithetic(), played, 2 + i * 5).values for i in (2, 3))
    order = Antithetic().order(State(6, 1, 0), 3)
    lone = np.zeros((6, 1))
    code = 2**6 - 1
    for player in order:
        lone[player] = played.table[code] - played.table[code & ~(1 << player)]
        code &= ~(1 << player)
    assert three == pytest.approx((2 * two + lone) / 3)


def test_truncation_stops_and_counts_the_rest_as_0():
    # V = 1 with at least 6 of 8 alive, else chance.
    played = game(lambda s: 1.0 if len(s) >= 6 else 0.1, 8)
    found = spent(Permutation(truncation=0.05, patience=2), played, 2 + 8 * 4)
    # Each walk: 7, 6, 5 and 4 alive are evaluated.
    assert found.evaluations == 2 + 8 * 4
    assert found.values.sum() == pytest.approx(0.9)
    worth = spent(Permutation(truncation=0.0, patience=1), random_game(), 200).values
    assert not np.allclose(worth.sum(), 0)


def test_truncation_needs_them_in_a_row():
    answer = evaluate(
        game(lambda s: [0.0, 0.0, 1.0, 0.0][len(s)], 3),
        Task(1, walk(np.arange(3), np.ones(3, bool)), stop=Truncation(0.0, 0.0, 2)),
    )
    assert not answer.truncated
    assert answer.evaluations == 2


def test_consecutive_resolved_players_leave_in_one_step():
    order = np.array([3, 0, 4, 1, 2, 5])
    wanted = np.array([False, False, True, False, False, True])
    rows = walk(order, wanted)
    # Needed: before and after 2 (4 and 5 gone), before 5 (5 gone); nobody is known.
    assert rows.ends.tolist() == [4, 5]
    assert [row.astype(int).tolist() for row in rows] == [[0, 0, 1, 0, 0, 1], [0, 0, 0, 0, 0, 1]]


@given(st.integers(1, 9), st.integers(0, 2**9 - 1), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_partial_walks_give_the_marginals_of_whole_ones(players, mask, seed):
    played = random_game(players, seed=seed)
    order = np.random.default_rng(seed).permutation(players)
    wanted = np.array([bool(mask >> i & 1) for i in range(players)])
    estimator = Fixed(given=order)
    found = []
    for who in (np.ones(players, bool), wanted):
        state = estimator.start(players, 1, 0)
        state.arrays["ends"][:] = [played.table[-1], played.table[0]]
        object.__setattr__(estimator, "wanted", lambda _state, who=who: who)
        task = estimator.round(state, 1)
        estimator.sample(state, task, evaluate(played, task))
        found.append(state.arrays["mean"])
    assert found[1][wanted] == pytest.approx(found[0][wanted])
    assert (found[1][~wanted] == 0).all()


def test_around_a_base_nothing_else_is_kept():
    played = random_game(3)
    base = np.array([True, False, True])
    rows = Flips(base, np.arange(3), np.arange(1, 4), cumulative=False)
    evaluate(played, Task(1, rows, base=base))
    assert [keep for _, keep in played.asked] == [True, False, False, False]


def test_flips_are_the_rows_they_stand_for():
    start = np.array([True, True, False])
    rows = np.stack(list(Flips(start, np.array([0, 1, 2]), np.array([1, 3]))))
    assert rows.tolist() == [[False, True, False], [False, False, True]]
    apart = np.stack(list(Flips(start, np.array([0, 1, 2]), np.array([1, 3]), cumulative=False)))
    assert apart.tolist() == [[False, True, False], [True, False, True]]
    assert len(Flips(start, np.array([0, 1, 2]), np.array([1, 3])).head(1).players) == 1
