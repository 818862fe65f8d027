"""The regression estimator against exact values, a slow peer and its own promises."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapley_games import TableGame, airport, exact, game, glove, planted, random_game

from modeledit.errors import ModelEditError
from modeledit.shapley import State, Task, evaluate
from modeledit.shapley.leverage import LISTED, PAIRS, LeverageCentred, _drawn, _packed
from modeledit.shapley.permutation import Permutation
from modeledit.shapley.regression import Sample, enumerated, regress, size_mean
from modeledit.shapley.ridge import Ridge, _strongest
from modeledit.shapley.running import Budget, run


def spent(estimator, game, evaluations, seed=0):
    return run(game, estimator, seed=seed, budget=Budget(evaluations))


def relative(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


class Curved:
    """V = a bent function of a sum, 20 players: beyond the model's polynomials; two games."""

    names = ("bent", "linear")
    players = 20
    worth = np.random.default_rng(5).gamma(1.0, size=20)

    def value(self, alive, *, keep=True):  # noqa: ARG002  (the protocol's)
        total = float(self.worth @ alive.numpy())
        return np.array([1 / (1 + np.exp(6 - 0.5 * total)), total])


def test_with_all_coalitions_the_values_are_exact():
    for played in (glove(), airport(), random_game(), random_game(2), random_game(7, games=2)):
        found = spent(LeverageCentred(), played, 1000)
        assert found.values == pytest.approx(exact(played), abs=1e-12)
        assert found.evaluations == 2**played.players  # each once, and then it is done
        assert found.resolved.all()
        assert (found.half_width == 0).all()


def test_by_hand():
    # V = 1 for {0}, 3 for {1}, 10 for both: phi = (1 + (10 - 3)) / 2 and (3 + (10 - 1)) / 2.
    played = TableGame(np.array([[0.0], [1.0], [3.0], [10.0]]))
    assert spent(LeverageCentred(), played, 10).values[:, 0] == pytest.approx([4.0, 6.0])


def test_one_player_takes_all():
    found = spent(LeverageCentred(), game(lambda s: 3.0 * len(s) - 1, 1), 10)
    assert found.values.tolist() == [[3.0]]
    assert found.evaluations == 2


def test_coalitions_of_few_players_are_drawn_without_replacement():
    played = random_game(6)
    spent(LeverageCentred(), played, 50)
    assert len({alive for alive, _ in played.asked}) == 50


def test_single_players_are_drawn_without_replacement_and_sizes_are_even():
    state = State(15, 1, seed=3)
    rows = np.concatenate([list(_drawn(state, i, (i - 1) * PAIRS)) for i in range(1, 61)])
    sizes = rows.sum(1)
    single = (sizes == 1) | (sizes == 14)
    players = np.where(sizes[single] == 1, rows[single].argmax(1), (~rows[single]).argmax(1))
    assert sorted(players.tolist()) == list(range(15))
    counts = np.bincount(sizes, minlength=15)[2:14]
    assert 480 / 14 - 3 <= counts.min() <= counts.max() <= 480 / 14 + 12  # and the singles' rest


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60), st.booleans())
def test_the_sum_is_exact_and_all_is_finite(seed, evaluations, guided):
    played = random_game(LISTED + 1, games=2, seed=1)
    prior = np.random.default_rng(seed).normal(size=(LISTED + 1, 2)) if guided else None
    found = spent(LeverageCentred(prior=prior), played, evaluations, seed)
    assert found.values.sum(0) == pytest.approx(played.table[-1] - played.table[0])
    assert not np.isnan(found.half_width).any()
    assert (found.half_width >= 0).all()
    assert found.evaluations == evaluations


def test_a_linear_game_needs_few_evaluations():
    # 20 unknown slopes, and the mean of the sizes: a linear game leaves no noise.
    found = spent(LeverageCentred(), Curved(), 120)
    assert found.values[:, 1] == pytest.approx(Curved.worth, abs=0.03)


def test_values_converge_where_the_model_does_not_hold():
    played, wanted = Curved(), reference(Curved())
    errors = [
        np.mean([relative(spent(LeverageCentred(), played, e, s).values[:, 0], wanted)
                 for s in range(2)])
        for e in (60, 240, 960)
    ]  # fmt: skip
    assert errors[0] > 1.5 * errors[1] > 2.25 * errors[2]
    assert errors[2] < 0.03


def reference(played, walks=20000):
    """(n,) of the first game, by vectors: V depends on the sum alone."""
    rng, total = np.random.default_rng(0), np.zeros(played.players)
    for _ in range(walks):
        order = rng.permutation(played.players)
        sums = np.concatenate([[0.0], played.worth[order].cumsum()])
        total[order] += np.diff(1 / (1 + np.exp(6 - 0.5 * sums)))
    return total / walks


def test_it_beats_permutations_and_a_prior_helps():
    played, wanted = Curved(), reference(Curved())
    off = np.random.default_rng(0).normal(scale=0.05 * wanted.std(), size=20)
    prior = np.stack([wanted + off, Curved.worth], axis=1)

    def error(estimator, evaluations):
        found = [spent(estimator, played, evaluations, s).values[:, 0] for s in range(4)]
        return np.mean([relative(each, wanted) for each in found])

    ours = error(LeverageCentred(), 200)
    assert ours < error(Permutation(), 800)
    assert error(LeverageCentred(prior=prior), 200) < ours


def test_a_wrong_prior_is_given_up():
    played, wanted = Curved(), reference(Curved())
    wrong = np.random.default_rng(1).normal(size=(20, 2))
    found = spent(LeverageCentred(prior=wrong), played, 600).values[:, 0]
    plain = spent(LeverageCentred(), played, 600).values[:, 0]
    assert relative(found, wanted) < 1.2 * relative(plain, wanted) + 0.01


@pytest.mark.parametrize("better", [0, 1])
def test_of_several_priors_the_better_is_believed(better):
    played, wanted = Curved(), reference(Curved())
    good = np.stack([wanted, Curved.worth], axis=1)
    both = np.stack([np.random.default_rng(1).normal(size=(20, 2))] * 2, axis=2)
    both[:, :, better] = good
    found = spent(LeverageCentred(prior=both), played, 200).values
    alone = spent(LeverageCentred(prior=good), played, 200).values
    plain = spent(LeverageCentred(), played, 200).values
    np.testing.assert_allclose(found, alone)
    assert relative(found[:, 0], wanted) < relative(plain[:, 0], wanted)


def test_of_two_priors_that_are_wrong_apart_their_mean_is_believed():
    played = planted(players=60, strong=6)
    off = 0.05 * np.random.default_rng(2).normal(size=(60, 1))
    both = np.stack([played.exact[:, None] + off, played.exact[:, None] - off], axis=2)
    found = spent(LeverageCentred(prior=both), played, 60).values[:, 0]
    alone = spent(LeverageCentred(prior=both[:, :, :1]), played, 60).values[:, 0]
    assert relative(found, played.exact) < 0.5 * relative(alone, played.exact)


def test_fewer_evaluations_than_players():
    played = planted(players=120, strong=6)
    guess = played.exact[:, None] + np.random.default_rng(2).normal(scale=0.01, size=(120, 1))
    plain = spent(LeverageCentred(), played, 90)
    guided = spent(LeverageCentred(prior=guess), played, 90)
    equal = np.full(120, played.exact.sum() / 120)
    wanted = played.exact
    assert relative(plain.values[:, 0], wanted) < relative(equal, wanted)
    assert relative(guided.values[:, 0], wanted) < 0.3 * relative(plain.values[:, 0], wanted)
    misled = spent(LeverageCentred(prior=-guess), played, 90)
    assert relative(misled.values[:, 0], wanted) < 1.1 * relative(plain.values[:, 0], wanted)


def test_equal_players_get_equal_values_and_intervals_cover():
    played = planted(players=24, strong=6, noise=0.05, seed=1)
    inside = []
    for seed in range(5):
        found = spent(LeverageCentred(), played, 400, seed)
        inside.append(np.abs(found.values[:, 0] - played.exact) <= found.half_width[:, 0])
    assert np.mean(inside) > 0.9
    flat = game(lambda s: len(s) ** 2, LISTED + 1)
    assert np.ptp(spent(LeverageCentred(), flat, 300).values) < 1e-5


def sample(n=14, count=60, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.empty((count, n), bool)
    for j in range(0, count, 2):
        rows[j] = np.isin(np.arange(n), rng.permutation(n)[: rng.integers(1, n)])
        rows[j + 1] = ~rows[j]
    return Sample(rows, rng.normal(size=count), np.ones(count, bool), -1.0, 2.0)


@pytest.mark.parametrize("penalty", [3.0, 1e-5])
@pytest.mark.parametrize("opposite", [False, True])
@pytest.mark.parametrize("columns", [5, 40])
def test_pairs_left_out_are_those_of_a_fit_without_them(columns, opposite, penalty):
    rng = np.random.default_rng(0)
    design, target = rng.normal(size=(20, columns)), rng.normal(size=(20, 1))
    if opposite:  # as a coalition and its complement are
        design[1::2] = -design[0::2]
    ridge = Ridge.of(design)
    kept = ridge.values**2 / (ridge.values**2 + penalty)
    fitted = ridge.left @ (kept[:, None] * (ridge.left.T @ target))
    found = ridge._left_out(kept, target - fitted)
    for pair in range(10):
        out = [2 * pair, 2 * pair + 1]
        some, rest = np.delete(design, out, 0), np.delete(target, out, 0)
        beta = np.linalg.solve(some.T @ some + penalty * np.eye(columns), some.T @ rest)
        assert found[out] == pytest.approx(target[out] - design[out] @ beta, rel=1e-4)


def test_noise_is_not_fitted_where_players_outnumber_evaluations():
    rng = np.random.default_rng(0)
    drawn = sample(n=1000, count=100)
    share = drawn.rows.mean(1)
    middle = share * (1 - share)  # nobody but the size matters, and it is noisy halfway
    values = 1 / (1 + np.exp(-20 * (share - 0.7))) + rng.normal(scale=0.3 * middle**2)
    found, _ = regress(Sample(drawn.rows, values, drawn.known, 0.0, 1.0), None)
    assert relative(found, np.full(1000, 1e-3)) < 0.1


def test_the_stronger_ridge_is_taken_unless_it_is_worse_beyond_doubt():
    weak = np.array([[1.0, 3.0, 1.0, 3.0]])
    stronger = weak + np.array([[-0.5, 1.0, -0.5, 1.0]])  # behind by .25, its error .375
    assert _strongest(np.stack([weak, weak, weak])) == (2, 0)
    assert _strongest(np.stack([weak, weak + 0.1])) == (0, 0)  # always behind: no doubt
    assert _strongest(np.stack([weak, stronger])) == (0, 0)
    assert _strongest(np.stack([weak, stronger - 0.1])) == (1, 0)
    better = np.concatenate([stronger, weak])
    assert _strongest(np.stack([better, better - 0.1, better])) == (1, 1)


def test_what_matters_for_the_values_chooses_the_ridge():
    rng = np.random.default_rng(0)
    design = rng.normal(size=(60, 3))
    target = design @ np.array([[1.0], [2.0], [-1.0]])
    target[30:] = rng.normal(size=(30, 1))  # nothing to learn there, whatever it weighs
    matters = np.repeat([1.0, 0.0], 30)
    ridge = Ridge.of(design)
    first, second = ridge.choose(target, matters), ridge.choose(target, 1 - matters)
    assert first.penalty < second.penalty


def test_a_coalition_without_its_complement_counts_alone():
    full = sample()
    cut = Sample(
        full.rows, np.append(full.values[:-1], 1e6), np.arange(60) < 59, full.none, full.everybody
    )
    values, error = regress(cut, None)
    assert np.abs(values).max() < 100
    assert np.isfinite(error).all()
    assert np.abs(size_mean(cut)).max() < 100


def test_a_budget_that_ends_within_a_pair_leaves_the_complement_unknown():
    estimator, played = LeverageCentred(), Curved()
    state = estimator.start(20, 2, 0)
    estimator.absorb(state, estimator.plan(state), [evaluate(played, estimator.plan(state)[0])])
    task = estimator.plan(state)[0].head(5)
    estimator.absorb(state, [task], [evaluate(played, task)])
    assert state.arrays["known"].tolist() == [True] * 5 + [False]
    assert len(state.arrays["rows"]) == len(state.arrays["values"]) == 6
    assert state.evaluations == 7


def test_the_mean_of_a_size_passes_through_a_line():
    full = sample()
    line = Sample(full.rows, full.sizes * 3.0 - 1, full.known, -1.0, 41.0)
    assert size_mean(line) == pytest.approx(np.arange(15) * 3.0 - 1)
    assert regress(line, None)[0] == pytest.approx(np.full(14, 3.0))


def test_enumeration_by_the_sizes_is_the_definition():
    played = random_game(4)
    codes = np.array([c for low in range(1, 8) for c in (low, 15 - low)])
    rows = (codes[:, None] >> np.arange(4)) & 1 == 1
    table = played.table[:, 0]
    found = enumerated(Sample(rows, table[codes], np.ones(14, bool), table[0], table[-1]))
    assert found == pytest.approx(exact(played)[:, 0])


def test_packing_keeps_every_player():
    for players in (1, 63, 64, 65, 130):
        rows = np.random.default_rng(players).random((5, players)) < 0.5
        packed = _packed(rows)
        assert packed.shape == (5, -(-players // 64))
        back = np.unpackbits(packed.view(np.uint8), axis=1, count=players).astype(bool)
        assert (back == rows).all()


def test_a_run_in_pieces_is_the_same_run(tmp_path):
    played, path = Curved(), tmp_path / "run.safetensors"
    whole = spent(LeverageCentred(), played, 301, seed=4)
    for evaluations in (40, 41, 170, 301):
        found = run(played, LeverageCentred(), seed=4, budget=Budget(evaluations), resume=path)
    assert (found.values == whole.values).all()
    assert (found.half_width == whole.half_width).all()
    assert found.evaluations == 301


def test_waves_grow_and_cover_every_round():
    estimator, played = LeverageCentred(), Curved()
    state, indices = estimator.start(20, 2, 0), []
    lengths = []
    while state.evaluations < 1500:
        tasks = estimator.plan(state)
        lengths.append(len(tasks))
        indices += [task.index for task in tasks]
        estimator.absorb(state, tasks, [evaluate(played, task) for task in reversed(tasks)])
    assert indices == list(range(len(indices)))
    assert lengths[:3] == [1, 8, 8]
    assert lengths == sorted(lengths)
    assert lengths[-1] > 20


def test_rounds_do_not_depend_on_the_wave_that_plans_them():
    early = LeverageCentred().start(20, 1, 0)
    late = LeverageCentred().start(20, 1, 0)
    late.rounds = 7
    at = {task.index: task for task in LeverageCentred(wave=9).plan(late)}
    early.rounds = 1
    for task in LeverageCentred().plan(early):
        if task.index in at:
            assert isinstance(task, Task)
            assert (task.coalitions == at[task.index].coalitions).all()


def test_bad_input():
    for options, message in (
        ({"wave": 0}, "wave=0"),
        ({"delta": 0}, "delta=0"),
        ({"prior": np.zeros((3, 1))}, r"shape \(3, 1\)"),
        ({"prior": np.zeros((5, 2, 2))}, r"shape \(5, 2, 2\)"),
        ({"prior": np.zeros((5, 1, 0))}, r"shape \(5, 1, 0\)"),
        ({"prior": np.full((5, 1), np.nan)}, "NaN"),
    ):
        with pytest.raises(ModelEditError, match=message):
            LeverageCentred(**options).start(5, 1, 0)
