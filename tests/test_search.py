"""The strength search: its ladder, its choice, its margin."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from modeledit import demo, pipeline, search
from modeledit.errors import ModelEditError
from modeledit.eval.aspects import Aspects
from modeledit.eval.gates import Limits
from modeledit.eval.predictions import Predictions
from modeledit.judging import Baseline
from modeledit.objectives import Seen, paired_drop
from modeledit.objectives.forgetting import Forgetting, tail
from modeledit.objectives.repairing import Repairing
from modeledit.plugins import create
from modeledit.report import ForgetTrial
from modeledit.runtime import Runtime
from modeledit.search import best, between, climb, ladder, middle
from modeledit.targets import ForgetClass
from modeledit.types import Scores

FORGET = Forgetting(Limits(max_forget=0.1, max_retain_drop=0.01), Aspects(), (0,))


def trial(strength, forget=0.0, drop=0.0, feasible=True, changed=1):
    return ForgetTrial(
        strength=strength,
        changed_weights=changed,
        images=100,
        feasible=feasible,
        forget=forget,
        forget_tail=forget,
        retain=0.9,
        retain_drop=drop,
        retain_drop_se=0.001,
    )


def chosen(*trials):
    return best({t.strength: t for t in trials}, FORGET).strength


def test_lowest_recall_then_smallest_loss_then_fewest_changes():
    assert chosen(trial(0.1, forget=0.2), trial(0.2, forget=0.1, drop=0.005)) == 0.2
    assert chosen(trial(0.1, drop=0.002), trial(0.2, drop=0.001)) == 0.2
    assert chosen(trial(0.2, changed=9), trial(0.1, changed=5)) == 0.1


def test_recalls_far_below_the_limit_are_equal():
    assert chosen(trial(0.1, forget=0.0009, drop=0.001), trial(0.2, forget=0.0, drop=0.002)) == 0.1
    assert chosen(trial(0.1, forget=0.0011, drop=0.001), trial(0.2, forget=0.0, drop=0.002)) == 0.2


def test_tail_by_hand():
    margins = np.array([-1.0, 1.0], dtype=np.float32)  # sd 1, h = 1.06 / 2^.2
    assert tail(margins) == pytest.approx(0.5)
    shifted = margins - 3
    expected = norm.cdf(shifted / (1.06 * 2**-0.2)).mean()
    assert tail(shifted) == pytest.approx(expected, rel=1e-5)
    assert tail(np.full(3, -1.0, dtype=np.float32)) == 0.0
    assert tail(np.ones(1, dtype=np.float32)) == 1.0


def test_tail_sees_what_counting_misses():
    margins = np.linspace(-4, -0.1, 100).astype(np.float32)
    assert (margins > 0).mean() == 0
    assert 0.01 < tail(margins) < 0.1


@given(st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=50), st.floats(0, 5, width=32))
def test_tail_is_a_share_that_falls_with_the_margins(values, shift):
    margins = np.array(values, dtype=np.float32)
    assert 0 <= tail(margins - shift) <= tail(margins) + 1e-6 <= 1 + 1e-6


def test_what_breaks_the_budget_is_never_chosen():
    assert chosen(trial(0.1, forget=0.9), trial(0.2, forget=0.0, feasible=False)) == 0.1


def test_without_a_feasible_one_the_least_harm():
    assert chosen(trial(0.1, drop=0.5, feasible=False), trial(0.2, drop=0.3, feasible=False)) == 0.2


def test_nothing_tried_is_an_error():
    with pytest.raises(ModelEditError, match="nothing to edit"):
        best({}, FORGET)


def test_climb_ends_where_there_is_no_hope():
    tried = []

    def attempt(strength):
        tried.append(strength)
        return trial(strength, drop=strength)

    climb([0.01, 0.2, 0.04, 0.06, 0.07, 0.08], attempt, hopeless=0.05)
    assert tried == [0.01, 0.2, 0.04, 0.06, 0.07]  # two in a row


def test_between_halves_the_gaps_geometrically():
    assert between([0.01, 0.04, 0.16], 0.04) == [0.02, 0.08]
    assert between([0.01, 0.04], 0.01) == [0.02]
    assert between([4, 5], 4) == []  # no count lies between
    assert middle(4, 16) == 8


def test_ladder_of_units_are_counts_of_weights_shares():
    units = Scores("filter", {"a": torch.ones(10), "b": torch.ones(30)})
    assert ladder(units) == [1, 2, 4, 8, 16]
    weights = ladder(Scores("weight", {"w": torch.ones(1000)}))
    assert weights[0] == 0.001
    assert all(isinstance(s, float) for s in weights)
    assert weights[-1] <= 0.25


def test_ladder_of_an_order_of_editing_is_its_own():
    scores = Scores("weight", {"w": torch.ones(1000)}, header={"steps": [3, 7]})
    assert ladder(scores) == [3, 7]


def test_paired_drop_by_hand():
    before = np.array([True, True, True, False])
    after = np.array([True, False, True, True])
    drop, error = paired_drop(before, after)
    assert drop == 0.0
    assert error == pytest.approx(np.std([0, 1, 0, -1]) / 2)


def searched(monkeypatch, certain):
    """Random weights of the demo, all strengths: the plan's size and the trials."""
    monkeypatch.setattr(search, "CERTAIN", certain)
    loaded, data = demo.load()
    runtime = Runtime(batch_size=50, seed=0)
    baseline = Baseline(loaded, data)
    scores = pipeline.score(loaded, data, ForgetClass((3,)), create("scorers", "random"), runtime)
    planner = create("editors", "zero").prepare(scores, loaded.module, data.train, runtime)
    plan, trials = search.find(planner, scores, baseline, FORGET, runtime)
    return plan.changed_weights, {t.strength: t for t in trials}, len(data.validation)


def test_what_has_lost_too_much_is_not_looked_at_to_the_end(monkeypatch):
    """The same choice with fewer images; what was given up would have failed with all."""
    chosen, short, n = searched(monkeypatch, search.CERTAIN)
    wanted, full, _ = searched(monkeypatch, math.inf)
    assert chosen == wanted
    assert {t.images for t in full.values()} == {n}
    given_up = [s for s, t in short.items() if t.images < n]
    assert given_up
    for strength in given_up:
        assert 200 <= short[strength].images < n
        assert not full[strength].feasible
        assert full[strength].lost > 5 * FORGET.budget
    assert all(short[s] == full[s] for s in short.keys() - given_up)


def test_the_first_trial_is_compared_with_the_unedited_network_too(monkeypatch):
    """Early answers are, while the edit is in place: those before must be known by then."""
    monkeypatch.setattr(search, "ladder", lambda *_: [0.25])
    _, trials, _ = searched(monkeypatch, math.inf)
    assert trials[0.25].retain_drop > 0.5
    assert trials[0.25].retain_drop == pytest.approx(0.99 - trials[0.25].retain, abs=0.02)


def test_groups_need_every_image():
    """A group may have its only images among the last."""
    limits, aspects = Limits(max_drop=0.01), Aspects(positive=1)
    lost = Predictions(*(np.zeros(400, dtype=t) for t in "llffl"))
    for objective, gives_up in ((Repairing(limits, aspects), False), (FORGET, True)):
        bench = search.Bench(objective, 1.0, None)
        right = replace(lost, labels=np.ones(400, int), predicted=np.ones(400, int))
        vars(bench)["before"] = Seen(right)
        assert bench._hopeless(replace(right, predicted=lost.predicted)) == gives_up
        assert not bench._hopeless(right)
