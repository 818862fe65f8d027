"""The strength search: its ladder, its choice, its margin."""

import math
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from modeledit import bench, demo, objectives, pipeline, search
from modeledit.attacks.pgd import Pgd
from modeledit.cost import Clock
from modeledit.errors import DataError, ModelEditError
from modeledit.eval.aspects import Aspects
from modeledit.eval.gates import Limits
from modeledit.eval.predictions import Predictions
from modeledit.execution import Execution
from modeledit.judging import Baseline
from modeledit.objectives import Seen, paired_drop
from modeledit.objectives.forgetting import Forgetting, tail
from modeledit.objectives.hardening import Hardening
from modeledit.objectives.repairing import Repairing
from modeledit.plugins import create
from modeledit.report import AttackTrial, ForgetTrial
from modeledit.runtime import Meter, Runtime
from modeledit.search import best, between, climb, ladder, middle
from modeledit.types import Scores

FORGET = Forgetting(Limits(max_forget=0.1, max_retain_drop=0.01), Aspects(), (0,))


def trial(strength, forget=0.0, drop=0.0, feasible=True, changed=1, images=100):
    return ForgetTrial(
        strength=strength,
        changed_weights=changed,
        images=images,
        feasible=feasible,
        forget=forget,
        forget_se=0.01,
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


def searched(monkeypatch, certain=objectives.CERTAIN, scorer="random", first=search.FIRST):
    """By scores of the demo, all strengths: the plan's size and the trials."""
    monkeypatch.setattr(bench, "CERTAIN", certain)
    loaded, data = demo.load()
    runtime = Runtime(batch_size=25, seed=0)
    baseline = Baseline(loaded, data)
    made = create("scorers", scorer)
    scores = pipeline.score(loaded, data, FORGET.target, made, runtime)
    planner = create("editors", "zero").prepare(scores, loaded.module, data.train, runtime)
    runtime = replace(runtime, meter=Meter())
    plan, trials = search.find(planner, scores, baseline, FORGET, runtime, first)
    return plan.changed_weights, {t.strength: t for t in trials}, runtime.meter.images


def test_what_has_lost_too_much_is_not_looked_at_to_the_end(monkeypatch):
    """The same choice with fewer images; what was given up would have failed with all."""
    chosen, short, _ = searched(monkeypatch)
    wanted, full, _ = searched(monkeypatch, certain=math.inf)
    assert chosen == wanted
    n = len(demo.load()[1].validation)
    assert {t.images for t in full.values()} == {n}
    given_up = [s for s, t in short.items() if t.images < n]
    assert given_up
    for strength in given_up:
        assert 200 <= short[strength].images < n
        assert not full[strength].feasible
        assert full[strength].lost > 5 * FORGET.budget
    assert all(short[s] == full[s] for s in short.keys() - given_up)


def test_what_is_surely_behind_is_not_looked_at_to_the_end(monkeypatch):
    """The same choice with fewer images by an order of editing that forgets step by step."""
    monkeypatch.setattr(objectives, "FEWEST", 50)
    chosen, short, few = searched(monkeypatch, scorer="stepwise-peps", first=180)
    wanted, full, many = searched(monkeypatch, scorer="stepwise-peps")
    assert chosen == wanted
    assert few < many
    best = next(t for t in full.values() if t.chosen)
    left_out = [s for s, t in short.items() if t.images < best.images and t.feasible]
    assert left_out
    for strength in left_out:
        assert full[strength].forget > best.forget_tail


def undecided(*trials):
    return search.undecided({t.strength: t for t in trials}, FORGET, 100)


def test_the_most_promising_is_seen_whole_first():
    assert undecided(trial(1, forget=0.4, images=50), trial(2, forget=0.3, images=50)) == 2
    assert undecided(trial(0, images=50)) == 0
    assert undecided(trial(1, forget=0.4), trial(2, forget=0.3)) is None


def test_what_all_images_would_not_change_is_decided():
    """Four standard errors: of .01 in the recall, of .001 and at least one image in the drop."""
    assert undecided(trial(1, forget=0.2), trial(2, forget=0.23, images=50)) == 2
    assert undecided(trial(1, forget=0.2), trial(2, forget=0.25, images=50)) is None
    assert undecided(trial(1, drop=0.08, images=50)) == 1  # less 4 / 50 it is within a point
    assert undecided(trial(1, drop=0.1, images=50)) is None


def test_a_recall_of_slim_margins_may_have_a_small_tail():
    slim = replace(trial(2, forget=0.3, images=50), forget_tail=0.1)
    assert undecided(trial(1, forget=0.15), slim) == 2


def test_an_image_that_cannot_be_read_any_more_is_an_error(monkeypatch):
    """Else answers to different images would be compared, or the search would not end."""
    lost = Predictions(*(np.zeros(400, dtype=t) for t in "llffl"))
    tried = bench.Bench(FORGET, 1.0, SimpleNamespace(tail=SimpleNamespace(names=())))
    vars(tried)["before"] = Seen(replace(lost, positions=np.arange(400)))
    after = Seen(lost.where(np.arange(400) < 399))
    monkeypatch.setattr(bench.Bench, "seen", lambda *_, **__: after)
    monkeypatch.setattr(bench, "edited", lambda *_: nullcontext())
    plan = SimpleNamespace(changes=(), changed_weights=0)
    vars(tried)["clean"].tail.model = None
    with pytest.raises(DataError, match="cannot be read now"):
        tried.trial(1, plan)


def test_attacked_images_are_run_once_a_strength():
    answers = Predictions(*(np.zeros(4, dtype=t) for t in "llffl"))
    clean = SimpleNamespace(answers=lambda *_, **__: answers)
    never = SimpleNamespace(answers=lambda *_, **__: pytest.fail("run again"))
    objective = Hardening(Limits(max_drop=0.01), Aspects(attack=Pgd(0.1)))
    known = Seen(answers, replayed=answers)
    found = bench.Bench(objective, 1.0, clean, never).seen("again", known=known)
    assert found.replayed is answers


@pytest.mark.parametrize(("trains", "first"), [(True, None), (False, bench.FIRST)])
def test_a_plan_that_is_trained_is_made_once(monkeypatch, trains, first):
    given = []
    monkeypatch.setattr(search, "find", lambda *args: given.append(args[-1]))
    editor = SimpleNamespace(trains=trains, prepare=lambda *_: None)
    parts = {"loaded": SimpleNamespace(module=None), "data": SimpleNamespace(train=None)}
    baseline, clock = SimpleNamespace(**parts), Clock(Runtime())
    Execution("unlearn", baseline, FORGET, editor, "auto", clock).planned(None)
    assert given == [first]


def test_what_is_over_budget_rules_nothing_out():
    over = trial(1, forget=0.0, feasible=False)
    assert undecided(over, trial(2, forget=0.9, images=50)) == 2


def test_the_choice_is_among_those_that_saw_all():
    lucky, sure = trial(1, forget=0.0, images=50), trial(2, forget=0.1)
    assert best({1: lucky, 2: sure}, FORGET, 100) is sure
    assert best({1: lucky}, FORGET, 100) is lucky


def test_an_attack_s_success_is_known_from_the_first_trial():
    objective = Hardening(Limits(max_drop=0.01), Aspects(attack=Pgd(0.1)))
    worse, better = attacked(1, success=0.31, images=50), attacked(2, success=0.3)
    assert objective.surely_behind(worse, better)
    assert not objective.surely_behind(replace(worse, success=0.3), better)
    assert not Repairing(Limits(), Aspects(positive=1)).surely_behind(worse, better)


def attacked(strength, success, images=100):
    return AttackTrial(
        strength=strength,
        changed_weights=1,
        images=images,
        feasible=True,
        success=success,
        restored=0.0,
        accuracy=0.9,
        accuracy_drop=0.0,
        accuracy_drop_se=0.001,
    )


def test_the_first_trial_is_compared_with_the_unedited_network_too(monkeypatch):
    """Early answers are, while the edit is in place: those before must be known by then."""
    monkeypatch.setattr(search, "ladder", lambda *_: [0.25])
    _, trials, _ = searched(monkeypatch, certain=math.inf)
    assert trials[0.25].retain_drop > 0.5
    assert trials[0.25].retain_drop == pytest.approx(0.99 - trials[0.25].retain, abs=0.02)


def test_groups_and_forgotten_classes_must_be_among_the_first_images():
    """A group may have its only images among the last."""
    limits, aspects = Limits(max_drop=0.01), Aspects(positive=1)
    lost = Predictions(*(np.zeros(400, dtype=t) for t in "llffl"))
    assert not Repairing(limits, aspects).comparable(lost)
    assert FORGET.comparable(lost)
    assert not FORGET.comparable(replace(lost, labels=np.ones(400, int)))
    assert not FORGET.comparable(lost.where(np.arange(400) < 199))


def test_a_trial_is_hopeless_by_far():
    right = Predictions(*(np.zeros(400, dtype=t) for t in "llffl"))
    right = replace(right, labels=np.ones(400, int), predicted=np.ones(400, int))
    tried = bench.Bench(FORGET, 1.0, None)
    vars(tried)["before"] = Seen(right)
    assert tried._hopeless(replace(right, predicted=np.zeros(400, int)))
    assert not tried._hopeless(right)
