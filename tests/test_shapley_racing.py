"""The race for the k largest values."""

import numpy as np
import pytest
from shapley_games import game, planted, random_game

from modeledit.errors import ModelEditError
from modeledit.shapley import evaluate
from modeledit.shapley.racing import Racing, pooled
from modeledit.shapley.running import Budget, run
from modeledit.shapley.tmab import Tmab


def chosen(found, k):
    return set(np.argsort(-found.values[:, 0])[:k].tolist())


def test_finds_the_planted_with_a_third_of_the_bandits_evaluations():
    for seed in range(5):
        played = planted(12, 4, gap=0.1, noise=0.01, seed=seed)
        raced = run(played, Racing(k=4, tolerance=0.02), seed=seed)
        bandit = run(played, Tmab(k=4, tolerance=0.02, published=True), seed=seed)
        assert chosen(raced, 4) == chosen(bandit, 4) == set(range(4))
        assert raced.resolved.all()
        assert 3 * raced.evaluations <= bandit.evaluations


def test_lowest_is_the_race_of_the_negated_game():
    played = planted(9, 0, noise=0.05)
    negated = planted(9, 0, noise=0.05)
    negated.pairs = -negated.pairs
    low = run(played, Racing(k=3, tolerance=1e-3, lowest=True), seed=0)
    high = run(negated, Racing(k=3, tolerance=1e-3), seed=0)
    assert low.evaluations == high.evaluations
    assert low.values == pytest.approx(-high.values)
    assert chosen(high, 3) == set(np.argsort(played.exact)[:3].tolist())


def test_failures_are_rarer_than_delta():
    failures = 0
    for seed in range(20):
        played = planted(10, 0, noise=0.03, seed=seed)
        found = run(played, Racing(k=3, tolerance=5e-3), seed=seed)
        tau = np.sort(played.exact)[-3:-5:-1].mean()
        inside = played.exact[list(chosen(found, 3))]
        failures += bool(inside.min() < tau - 2 * 5e-3)
    assert failures <= 0.2 * 20


def test_only_the_undecided_are_sampled():
    played = planted(12, 3, gap=1.0, noise=0.02)
    played.worth[3] = 0.999
    estimator = Racing(k=3, tolerance=1e-3)
    state = estimator.start(12, 1, 0)
    while not estimator.done(state):
        tasks = estimator.plan(state)
        estimator.absorb(state, tasks, [evaluate(played, task) for task in tasks])
    count = state.arrays["count"]
    assert count[4:].max() <= 24 < count[:4].max()


def test_ties_end_within_the_tolerance():
    played = game(lambda s: float(len(s) >= 3), 6)
    found = run(played, Racing(k=2, tolerance=0.05), seed=0)
    assert found.resolved.all()


@pytest.mark.parametrize("kind", [Racing, Tmab])
def test_a_relative_tolerance_is_in_equal_shares(kind):
    played = random_game(6, games=2)
    shares = np.abs(played.table[-1] - played.table[0]) / 6
    found = run(played, kind(k=2, tolerance=3.0, relative=True), seed=0)
    for j in range(2):
        single = random_game(6, games=2)
        single.table, single.names = single.table[:, j : j + 1], ("v",)
        relative = run(single, kind(k=2, tolerance=3.0, relative=True), seed=0)
        absolute = run(single, kind(k=2, tolerance=3.0 * shares[j]), seed=0)
        assert relative.evaluations == absolute.evaluations <= found.evaluations
        np.testing.assert_array_equal(relative.values, absolute.values)


def test_an_equal_share_of_nothing_is_refused():
    played = game(lambda s: float(len(s) in (2, 3)), 6)
    with pytest.raises(ModelEditError, match="relative=True has nothing to measure"):
        run(played, Racing(k=2, relative=True), seed=0)


def test_several_games_are_decided_together():
    played = random_game(6, games=2)
    found = run(played, Racing(k=2, tolerance=0.2), seed=0)
    for j in range(2):
        single = random_game(6, games=2)
        single.table = single.table[:, j : j + 1]
        single.names = ("v",)
        one = run(single, Racing(k=2, tolerance=0.2), seed=0)
        assert one.evaluations <= found.evaluations
        assert chosen(one, 2) == set(np.argsort(-found.values[:, j])[:2].tolist())


def test_cut_short_the_values_are_finite():
    played = planted(50, 5)
    for evaluations in (2, 3, 20, 60, 1000):
        found = run(played, Racing(k=5, tolerance=1e-6), seed=0, budget=Budget(evaluations))
        assert np.isfinite(found.values).all()
        assert found.evaluations == evaluations


def test_pooled_variances_by_hand():
    samples = np.zeros((3, 2, 1))
    samples[:, 1, 0] = [0.0, 1.0, 2.0]  # variances 0 and 1, mean 0.5
    assert pooled(samples)[:, 0] == pytest.approx([8 * 0.5 / 10, (2 + 8 * 0.5) / 10])


@pytest.mark.parametrize(
    ("options", "message"),
    [({"k": 6}, "k=6 of 6"), ({"k": 2, "tolerance": 0}, "tolerance=0"), ({"delta": 1.0}, "k=100")],
)
def test_bad_options(options, message):
    with pytest.raises(ModelEditError, match=message):
        run(random_game(), Racing(**options), seed=0)
