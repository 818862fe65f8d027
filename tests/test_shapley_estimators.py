"""Estimators of Shapley values against exact enumeration."""

import itertools
import math

import numpy as np
import pytest
import torch
from shapley_games import (
    Fixed,
    PairGame,
    TableGame,
    airport,
    exact,
    game,
    glove,
    planted,
    random_game,
    spent,
)

from modeledit.errors import ModelEditError
from modeledit.shapley import Answer, Flips, Task, evaluate
from modeledit.shapley.cmcs import Cmcs
from modeledit.shapley.permutation import Antithetic, Permutation
from modeledit.shapley.running import run
from modeledit.shapley.sampling import add, variance
from modeledit.shapley.tmab import Tmab, threshold
from modeledit.shapley.walks import walk

UNBIASED = [Permutation(), Antithetic(), Cmcs(), Cmcs(sizes="random")]


@pytest.mark.parametrize("estimator", UNBIASED, ids=str)
@pytest.mark.parametrize(
    "played", [glove(), airport(), random_game()], ids=["glove", "port", "rnd"]
)
def test_values_converge_to_the_exact_ones(estimator, played):
    found = spent(estimator, played, 4000)
    error = np.abs(found.values - exact(played))
    assert (error < 4.5 * found.half_width / 1.96 + 1e-12).all()
    assert found.half_width.max() < 0.35
    assert found.evaluations <= 4000


def test_airport_by_hand():
    # Segments 0-1, 1-2, 2-5, 5-9, used by 6, 4, 3 and 1 of the six.
    worth = np.array([1 / 6, 1 / 6, 1 / 6 + 1 / 4, 0, 0, 0])
    worth[3] = worth[4] = 1 / 6 + 1 / 4 + 3 / 3
    worth[5] = worth[3] + 4
    assert exact(airport())[:, 0] == pytest.approx(worth)


@pytest.mark.parametrize("estimator", [Permutation(), Antithetic()], ids=str)
def test_the_sum_is_exact(estimator):
    played = random_game(games=2)
    for evaluations in (2, 3, 6, 7, 11, 100, 103):
        found = spent(estimator, played, evaluations)
        total = played.table[-1] - played.table[0]
        assert found.values.sum(0) == pytest.approx(total)
        assert np.isfinite(found.values).all()


@pytest.mark.parametrize("estimator", [*UNBIASED, Tmab(k=2)], ids=str)
def test_a_null_player_gets_0(estimator):
    base = random_game(4)
    played = TableGame(np.concatenate([base.table, base.table]))  # player 4 changes nothing
    assert (spent(estimator, played, 500).values[4] == 0).all()


def test_all_permutations_give_the_exact_value():
    played = random_game(5)
    state = Permutation().start(5, 1, 0)
    ends, everyone = [played.table[-1], played.table[0]], np.ones(5, bool)
    state.arrays["ends"][:] = ends
    for i, order in enumerate(itertools.permutations(range(5)), 1):
        estimator = Fixed(given=order)
        answer = evaluate(played, Task(i, walk(np.array(order), everyone)))
        estimator.sample(state, Task(i, np.empty((0, 5), bool)), answer)
    found = Permutation().estimate(state)
    assert state.arrays["count"].tolist() == [120] * 5
    assert found.values == pytest.approx(exact(played))


def test_all_coalitions_give_the_exact_value():
    """Cmcs, every S with the weight it is drawn with."""
    played = random_game(5)
    total = np.zeros((5, 1))
    for code in range(32):
        base = np.array([bool(code >> i & 1) for i in range(5)])
        weight = 1 / 6 / math.comb(5, int(base.sum()))
        rows = Flips(base, np.arange(5), np.arange(1, 6), cumulative=False)
        state = Cmcs().start(5, 1, 0)
        task = Task(1, rows, base=base)
        Cmcs().sample(state, task, evaluate(played, task))
        total += weight * state.arrays["mean"]
    assert total == pytest.approx(exact(played))


def test_sizes_are_uniform_over_seeds():
    sizes = np.array([Cmcs().base(Cmcs().start(3, 1, seed), 5).sum() for seed in range(2000)])
    assert np.bincount(sizes) / 2000 == pytest.approx(np.full(4, 0.25), abs=0.04)
    state = Cmcs().start(9, 1, 0)
    even = np.bincount([Cmcs().base(state, i).sum() for i in range(100)], minlength=10)
    assert even.min() >= 8
    assert even.max() <= 11


def test_antithetic_walks_are_exact_for_pairwise_games():
    played = planted(7, 2)
    found = spent(Antithetic(), played, 2 + 2 * 6)
    assert found.values[:, 0] == pytest.approx(played.exact)
    other = spent(Permutation(), played, 2 + 2 * 6).values[:, 0]
    assert np.abs(other - played.exact).max() > 0.01


@pytest.mark.parametrize("estimator", UNBIASED, ids=str)
def test_games_over_the_same_walks_are_additive(estimator):
    both = random_game(games=2)
    total = TableGame(both.table.sum(1, keepdims=True))
    together = spent(estimator, both, 300).values.sum(1)
    assert together == pytest.approx(spent(estimator, total, 300).values[:, 0], abs=1e-12)


@pytest.mark.parametrize("estimator", [*UNBIASED, Tmab(k=2)], ids=str)
def test_the_seed_decides(estimator):
    played = random_game()
    first, again, other = (spent(estimator, played, 60, seed).values for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_tmab_finds_the_planted():
    played = planted(12, 4, gap=0.3, noise=0.002)
    estimator = Tmab(k=4, tolerance=0.05, spread=0.5)
    found = run(played, estimator, seed=0)
    assert found.resolved.all()
    assert set(np.argsort(-found.values[:, 0])[:4]) == {0, 1, 2, 3}
    few = run(played, Tmab(k=4, tolerance=0.05, spread=0.5, lowest=True), seed=0)
    assert few.resolved.all()


def test_tmab_spends_on_the_unresolved():
    played = planted(12, 4, gap=0.3, noise=0.002)
    played.worth[6:] = -1.0  # far away from the threshold
    state = Tmab(k=4, tolerance=0.02, spread=0.5).start(12, 1, 0)
    estimator = Tmab(k=4, tolerance=0.02, spread=0.5)
    while not estimator.done(state):
        tasks = estimator.plan(state)
        estimator.absorb(state, tasks, [evaluate(played, task) for task in tasks])
    count = state.arrays["count"]
    assert count[6:].max() < count[:6].min()


def test_published_bandit_by_hand():
    state = Tmab(k=1, published=True).start(3, 1, 0)
    for marginals in ([0.5, 0.2, 0.0], [0.7, 0.2, 0.1]):
        add(state, np.arange(3), np.array(marginals)[:, None])
    width = Tmab(k=1, published=True).width(state)
    log = math.log(2 / 0.2)
    expected = [math.sqrt(2 * v * log / 2) + 7 / 3 * log for v in (0.02, 0.0, 0.005)]
    assert width[:, 0] == pytest.approx(expected)
    ours = Tmab(k=1).width(state)[1, 0]
    assert ours == pytest.approx(7 / 3 * 2 * math.log(4 / 0.2))
    union = Tmab(k=1, union=True).width(state)[1, 0]
    assert union == pytest.approx(7 / 3 * 2 * math.log(4 * 3 / 0.2))
    mean = state.arrays["mean"]
    assert threshold(mean, 1, True) == pytest.approx(0.6)
    assert threshold(mean, 1, False) == pytest.approx(0.4)


def test_ties_at_the_threshold_resolve():
    played = game(lambda s: float(len(s)), 4)
    for published in (False, True):
        found = run(played, Tmab(k=2, tolerance=0.1, published=published), seed=0)
        assert found.resolved.all()


def test_a_marginal_of_minus_1_is_a_marginal():
    played = game(lambda s: 0.0 if 0 in s else 1.0, 3)
    found = spent(Tmab(k=1, tolerance=0.01), played, 200)
    assert found.values[:, 0].tolist() == [-1.0, 0.0, 0.0]


def test_equal_samples_have_a_variance_of_0_and_not_below():
    state = Permutation().start(1, 1, 0)
    for _ in range(1000):
        add(state, np.zeros(1, np.int64), np.full((1, 1), 1e8 + 0.1))
    assert variance(state)[0, 0] == 0.0
    draws = 1e8 + np.random.default_rng(0).normal(size=500)
    state = Permutation().start(1, 1, 0)
    for draw in draws:
        add(state, np.zeros(1, np.int64), np.full((1, 1), draw))
    assert variance(state)[0, 0] == pytest.approx(draws.var(ddof=1), rel=1e-6)


def test_values_that_are_not_finite_are_refused():
    played = game(lambda s: math.nan if len(s) == 2 else 1.0, 4, names=("recall",))
    with pytest.raises(ModelEditError, match="recall is not finite with 2 of 4 units alive"):
        spent(Permutation(), played, 100)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (Tmab(k=6), "k=6 of 6 units is no choice: give 1 to 5"),
        (Tmab(k=0), "k=0"),
        (Tmab(k=2, tolerance=0.0), "tolerance=0"),
        (Tmab(k=2, delta=0.0), "delta=0"),
        (Tmab(k=2, published=True, union=True), "published=True"),
        (Permutation(wave=0), "wave=0"),
        (Permutation(interval="wald"), "interval='wald'"),
        (Permutation(spread=-1.0), "spread=-1"),
        (Permutation(truncation=-0.1), "truncation=-0.1"),
        (Permutation(patience=0), "patience=0"),
        (Antithetic(wave=3), "wave=3"),
        (Cmcs(sizes="odd"), "sizes='odd'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_options(estimator, message):
    with pytest.raises(ModelEditError, match=message) as caught:
        spent(estimator, random_game(), 100)
    assert "\n" not in str(caught.value)


def test_cmcs_below_one_round():
    played = planted(9, 3)
    found = spent(Cmcs(), played, 2 + 1 + 4)
    assert np.isfinite(found.values).all()
    total = played.value(torch.ones(9, dtype=torch.bool)) - played.value(torch.zeros(9).bool())
    assert found.values.sum() == pytest.approx(total.item())
    assert len(np.unique(found.values.round(12))) == 5  # four players, and the shared rest


def test_one_player():
    found = spent(Permutation(), PairGame(np.array([0.5]), np.zeros((1, 1))), 9)
    assert found.values.tolist() == [[0.5]]
    assert found.half_width.tolist() == [[0.0]]
    assert found.evaluations == 2
    assert found.resolved.all()


def test_answers_of_a_wave_may_come_in_any_order():
    played = random_game()
    for estimator in (*UNBIASED, Tmab(k=2)):
        states = []
        for turn in (1, -1):
            state = estimator.start(6, 1, 0)
            for _ in range(3):
                tasks = estimator.plan(state)
                answers: list[Answer] = [evaluate(played, task) for task in tasks[::turn]]
                estimator.absorb(state, tasks, answers)
            states.append(state)
        for name, array in states[0].arrays.items():
            assert array.tobytes() == states[1].arrays[name].tobytes()
