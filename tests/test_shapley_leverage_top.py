"""The k largest values by regression, until a wrong choice is unlikely."""

import numpy as np
import pytest
from shapley_games import exact, game, planted, random_game

from modeledit.errors import ModelEditError
from modeledit.shapley.leverage import LeverageCentred
from modeledit.shapley.leverage_top import LeverageTop, wrong
from modeledit.shapley.running import Budget, run
from modeledit.shapley.tmab import Tmab


def chosen(found, k):
    return set(np.argsort(-found.values[:, 0])[:k].tolist())


def away(truth, picked, k):
    """How far the worst of the choice, or of the others, is on the wrong side of the threshold."""
    threshold = np.sort(truth)[::-1][k - 1 : k + 1].mean()
    others = np.setdiff1d(np.arange(len(truth)), list(picked))
    return max(threshold - truth[list(picked)].min(), truth[others].max() - threshold)


def test_finds_the_planted_with_a_third_of_the_bandits_evaluations():
    for seed in range(5):
        played = planted(40, 4, gap=0.1, noise=0.01, seed=seed)
        found = run(played, LeverageTop(k=4, tolerance=0.02), seed=seed)
        bandit = run(played, Tmab(k=4, tolerance=0.02, published=True), seed=seed)
        assert away(played.exact, chosen(found, 4), 4) <= 0.02
        assert away(played.exact, chosen(bandit, 4), 4) <= 0.02
        assert found.resolved.all()
        assert 3 * found.evaluations <= bandit.evaluations


def test_lowest_are_the_largest_of_the_negated_game():
    played, negated = (planted(20, 3, gap=0.5, noise=0.03) for _ in range(2))
    negated.pairs, negated.worth = -negated.pairs, -negated.worth
    options = {"k": 3, "tolerance": 1e-3, "wave": 1}
    low = run(played, LeverageTop(lowest=True, **options), seed=0)
    high = run(negated, LeverageTop(**options), seed=0)
    assert low.evaluations == high.evaluations
    np.testing.assert_allclose(low.values, -high.values, atol=1e-9)
    largest = run(played, LeverageTop(**options), seed=0)  # the three that were planted
    assert largest.evaluations < low.evaluations


def test_a_continued_run_is_the_uninterrupted_one(tmp_path):
    played, estimator = planted(20, 0, noise=0.03), LeverageTop(k=3, tolerance=1e-3, wave=1)
    whole = run(played, estimator, seed=3)
    file = tmp_path / "run.safetensors"
    run(played, estimator, seed=3, budget=Budget(whole.evaluations // 2), resume=file)
    rest = run(played, estimator, seed=3, resume=file)
    assert rest.evaluations == whole.evaluations
    np.testing.assert_array_equal(rest.values, whole.values)


def test_failures_are_rarer_than_delta():
    failures = 0
    for seed in range(20):
        played = planted(20, 0, noise=0.03, seed=seed)
        found = run(played, LeverageTop(k=3, tolerance=1e-3, wave=1), seed=seed)
        failures += bool(away(played.exact, chosen(found, 3), 3) > 1e-3)
    assert failures <= 0.2 * 20


def test_a_smaller_tolerance_or_delta_takes_no_fewer_evaluations():
    played = random_game(16)
    share = abs(played.table[-1, 0] - played.table[0, 0]) / 16
    used = [
        run(played, LeverageTop(k=3, wave=1, **options), seed=0, budget=Budget(20_000)).evaluations
        for options in (
            {"tolerance": 30 * share},
            {"tolerance": 10 * share},
            {"tolerance": 10 * share, "delta": 0.01},
        )
    ]
    assert used == sorted(used)
    assert used[0] < used[-1]


def test_few_players_end_with_exact_values():
    played = random_game(6)
    found = run(played, LeverageTop(k=2, tolerance=1e-9), seed=0)
    assert found.evaluations <= 2**6
    assert away(exact(played)[:, 0], chosen(found, 2), 2) <= 1e-9


def test_half_widths_cover_where_a_prior_only_seems_to_be_right():
    inside = []
    for seed in range(10):
        played = planted(40, 4, noise=0.02, seed=seed)
        off = np.random.default_rng(seed).normal(scale=0.01, size=(40, 1))
        estimator = LeverageCentred(prior=played.exact[:, None] + off)
        found = run(played, estimator, seed=seed, budget=Budget(66))
        inside.append(np.abs(found.values[:, 0] - played.exact) <= found.half_width[:, 0])
    assert np.mean(inside, axis=1).min() > 0.85  # 0 where the penalty was taken to be known


def test_the_share_of_wrong_draws_by_hand():
    values = np.array([3.0, 2.0, 1.0, 0.0])
    draws = np.array([[3.0, 2.0, 1.0, 0.0], [3.0, 1.0, 2.0, 0.0], [0.0, 9.0, 8.0, 0.0]])
    # thresholds 1.5, 1.5, 4.0: the choice {0, 1} is wrong by -0.5, 0.5 and 4.0
    assert wrong(draws, values, 2, 0.0) == pytest.approx(2 / 3)
    assert wrong(draws, values, 2, 1.0) == pytest.approx(1 / 3)
    assert wrong(draws, values, 2, 4.0) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 6}, "k=6 of 6"),
        ({"k": 2, "tolerance": 0}, "tolerance=0"),
        ({"k": 2, "delta": 1.0}, "delta=1.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ModelEditError, match=message):
        run(random_game(), LeverageTop(**options), seed=0)


def test_an_equal_share_of_nothing_is_refused():
    played = game(lambda s: float(len(s) in (2, 3)), 6)
    with pytest.raises(ModelEditError, match="relative=True has nothing to measure"):
        run(played, LeverageTop(k=2, relative=True, wave=1), seed=0)
