"""Group metrics: by hand, beside fairlearn, and where a denominator is missing."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeledit.errors import DataError, ModelEditError
from modeledit.eval.fairness import columns_with_both, drops, measure
from modeledit.eval.intervals import percentile, wilson

# Group a: 4 images, 3 right; b: 4 images, 2 right; c: 2 images, both right, no positive.
LABELS = np.array([1, 1, 0, 0, 1, 1, 0, 0, 0, 0])
TOLD = np.array([1, 1, 1, 0, 1, 0, 1, 0, 0, 0])
GROUPS = np.array(["a"] * 4 + ["b"] * 4 + ["c"] * 2)


def test_groups_by_hand():
    found = measure(LABELS[:8], TOLD[:8], GROUPS[:8])
    a, b = found.groups
    assert (a.name, a.n, a.recall, a.selection_rate) == ("a", 4, 0.75, 0.75)
    assert (b.name, b.n, b.recall, b.selection_rate) == ("b", 4, 0.5, 0.5)
    assert (a.true_positive_rate, a.false_positive_rate) == (1.0, 0.5)
    assert (b.true_positive_rate, b.false_positive_rate) == (0.5, 0.5)
    metrics = found.metrics
    assert metrics.accuracy_score == 5 / 8
    assert metrics.accuracy_score_group_mean == 5 / 8
    assert (metrics.accuracy_score_group_min, metrics.worst_group) == (0.5, "b")
    assert metrics.accuracy_score_difference == 0.25
    assert metrics.demographic_parity_difference == 0.25
    assert metrics.equal_opportunity_difference == 0.5
    assert metrics.equalized_odds_difference == 0.5
    assert found.missing == {}
    assert found.notes() == ()


def test_a_rate_without_a_denominator_is_missing_and_listed():
    found = measure(LABELS, TOLD, GROUPS)
    assert found.groups[2].true_positive_rate is None
    assert found.groups[2].false_positive_rate == 0.0
    assert found.metrics.equal_opportunity_difference is None
    assert found.metrics.equalized_odds_difference is None
    # Over a and b alone the true positive rates are 1 and 1/2; the others .5, .5 and 0.
    assert found.metrics.excluding == {
        "equal_opportunity_difference": 0.5,
        "equalized_odds_difference": 0.5,
    }
    ruled = ("true_positive_rate", "equal_opportunity_difference", "equalized_odds_difference")
    assert found.missing == dict.fromkeys(ruled, ("c",))
    assert found.metrics.demographic_parity_difference == 0.75
    (note,) = found.notes(("race",))
    assert "c: no image of the positive label 1" in note
    assert "use column race" in note


def test_one_label_per_group_rules_both_rates_out():
    groups = np.where(LABELS == 1, "women", "men")
    found = measure(LABELS, TOLD, groups)
    assert found.missing["true_positive_rate"] == ("men",)
    assert found.missing["false_positive_rate"] == ("women",)
    assert found.missing["equalized_odds_difference"] == ("men", "women")
    assert found.metrics.excluding == {}
    assert found.metrics.accuracy_score_group_min == pytest.approx(4 / 6)
    assert len(found.notes()) == 2
    columns = {"gender": groups, "race": np.array(list("xyxyxyxyxy")), "all": np.array(["z"] * 10)}
    assert columns_with_both(LABELS, columns, 1) == ("race",)


def test_a_group_that_is_all_right_is_said_to_have_an_interval_without_width():
    found = measure(LABELS, TOLD, GROUPS)
    assert [group.ci95 == (1.0, 1.0) for group in found.groups] == [False, False, True]
    (line,) = found.certain()
    # Wilson for 2 of 2: 1 / (1 + 1.96**2 / 2) = 0.342.
    assert line.endswith("Wilson's: c (100 % of 2: 34.2 to 100.0 %)")
    wrong = measure(LABELS, np.where(GROUPS == "b", 1 - LABELS, LABELS), GROUPS)
    assert "b (0 % of 4: 0.0 to 49.0 %)" in wrong.certain()[0]
    assert measure(LABELS, TOLD, GROUPS, draws=0).certain() == ()
    assert measure(LABELS[:8], TOLD[:8], GROUPS[:8]).certain() == ()


def test_the_worst_of_equal_groups_is_the_largest():
    labels, groups = np.array([1, 0] + [1, 0] * 2 + [1] * 4), np.array(list("aabbbbcccc"))
    told = labels.copy()
    told[[0, 2, 3]] = 1 - told[[0, 2, 3]]  # a and b: half right, b of four images; c: all
    found = measure(labels, told, groups)
    assert [group.recall for group in found.groups] == [0.5, 0.5, 1.0]
    assert found.metrics.worst_group == "b"


def test_one_of_two_rates_is_not_enough_for_equalized_odds():
    # Only a has positives: there is a difference in false positive rates, 1 against 1/2, alone.
    found = measure(np.array([1, 0, 0, 0]), np.array([1, 1, 1, 0]), np.array(list("aabb")))
    assert found.metrics.equalized_odds_difference is None
    assert found.metrics.excluding == {}
    assert "equalized_odds_difference" not in found.metrics.ci95


def test_intersections_give_what_the_column_gives():
    draw = np.random.default_rng(4)
    labels, told = draw.integers(0, 2, 300), draw.integers(0, 2, 300)
    race = draw.choice(["x", "y", "z"], 300)
    both = np.char.add(race, np.where(labels == 1, "-woman", "-man"))
    whole = measure(labels, told, race).metrics.equalized_odds_difference
    partial = measure(labels, told, both).metrics
    assert partial.equalized_odds_difference is None
    assert partial.excluding["equalized_odds_difference"] == whole


def test_other_labels_count_as_negative():
    labels, told = np.array([2, 2, 0, 1, 2, 0]), np.array([2, 0, 1, 2, 2, 0])
    found = measure(labels, told, np.array(["a", "a", "a", "b", "b", "b"]), positive=2)
    a, b = found.groups
    assert (a.recall, a.selection_rate) == pytest.approx((1 / 3, 1 / 3))  # 0 taken for 1 is wrong
    assert (a.true_positive_rate, a.false_positive_rate) == (0.5, 0.0)
    assert (b.true_positive_rate, b.false_positive_rate) == (1.0, 0.5)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(0, 120))
def test_fairlearn_says_the_same(seed, count, more):
    metrics = pytest.importorskip("fairlearn.metrics")
    draw = np.random.default_rng(seed)
    # Two images of each label in every group, so that every denominator is positive.
    groups = np.concatenate([np.repeat(np.arange(count), 4), draw.integers(0, count, more)])
    labels = np.concatenate([np.tile([0, 0, 1, 1], count), draw.integers(0, 2, more)])
    told = np.where(draw.random(len(labels)) < 0.7, labels, 1 - labels)
    found = measure(labels, told, groups.astype(str), draws=0)
    data = {"y_true": labels, "y_pred": told, "sensitive_features": groups}
    for name in (
        "equalized_odds_difference",
        "equal_opportunity_difference",
        "demographic_parity_difference",
        "accuracy_score_difference",
        "accuracy_score_group_min",
    ):
        theirs = getattr(metrics, name)(**data)
        assert getattr(found.metrics, name) == pytest.approx(theirs, abs=1e-12)
    rates = ("selection_rate", "true_positive_rate", "false_positive_rate")
    frame = metrics.MetricFrame(metrics={r: getattr(metrics, r) for r in rates}, **data).by_group
    for group in found.groups:
        for rate in rates:
            assert getattr(group, rate) == pytest.approx(frame[rate][int(group.name)], abs=1e-12)


def test_intervals_are_the_bootstraps():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, 400)
    told = np.where(draw.random(400) < 0.8, labels, 1 - labels)
    groups = np.repeat(["a", "b"], 200)
    found = measure(labels, told, groups, draws=4000)
    right = (labels == told)[:200]
    slow = [right[draw.integers(0, 200, 200)].mean() for _ in range(4000)]
    assert found.groups[0].ci95 == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.012)
    gaps = []
    for _ in range(1000):
        at = np.concatenate([draw.integers(0, 200, 200), draw.integers(200, 400, 200)])
        gaps.append(
            measure(labels[at], told[at], groups[at], draws=0).metrics.equalized_odds_difference
        )
    wanted = np.quantile(gaps, [0.025, 0.975])
    assert found.metrics.ci95["equalized_odds_difference"] == pytest.approx(wanted, abs=0.03)
    assert measure(labels, told, groups).to_dict() == measure(labels, told, groups).to_dict()
    assert measure(labels, told, groups, seed=1).groups[0].ci95 != found.groups[0].ci95


def test_a_group_of_one_has_no_interval():
    found = measure(np.array([1, 0, 1]), np.array([1, 0, 1]), np.array(["a", "a", "b"]))
    assert found.groups[1].ci95 is None
    assert found.missing["ci95"] == ("b",)
    labels = np.array([1, 0, 1])
    assert drops(labels, labels, labels, np.array(["a", "a", "b"]))[1].ci95 is None


def test_drops_are_paired():
    # a: 160 images, 8 lost and 4 won; b: 100 images, 50 lost, too few to be judged.
    labels = np.zeros(260, dtype=int)
    before, after = np.zeros(260, dtype=int), np.zeros(260, dtype=int)
    before[:4], after[4:12], after[160:210] = 1, 1, 1
    groups = np.repeat(["a", "b"], [160, 100])
    a, b = drops(labels, before, after, groups)
    assert (a.n, a.drop) == (160, 0.025)
    low, high = a.ci95
    # Standard error of the mean of 8 times 1, 4 times -1 and 148 times 0.
    error = np.sqrt(12 / 160 - 0.025**2) / np.sqrt(160)
    assert (low, high) == pytest.approx((0.025 - 1.96 * error, 0.025 + 1.96 * error), abs=0.01)
    assert not a.harmed(0.01)
    assert a.harmed(low - 1e-9)
    assert b.drop == 0.5
    assert not b.harmed(0.01)
    assert b.harmed(0.01, least=100)


def test_the_report_blocks_are_json():
    found = measure(LABELS, TOLD, GROUPS).to_dict()
    text = json.loads(json.dumps(found))
    assert {"name", "n", "recall", "selection_rate", "ci95"} <= set(text["groups"][0])
    assert "true_positive_rate" not in text["groups"][2]
    assert "equalized_odds_difference" not in text["fairness"]
    assert text["fairness"]["missing"]["equalized_odds_difference"] == ["c"]
    assert text["fairness"]["positive"] == 1


@pytest.mark.parametrize(
    ("labels", "told", "groups", "message"),
    [
        ([1, 0], [1, 0], None, "--group-column"),
        ([1, 0], [1, 0], ["a"], "1 and 2 entries"),
        ([1, 0], [1], ["a", "b"], "1 and 2 entries"),
        ([], [], [], "at least one image"),
        ([1, 0], [1, 0], ["a", "a"], "two groups or more"),
        ([2, 0], [1, 0], ["a", "b"], "no image has the positive label 1: use one of 0, 2"),
    ],
)
def test_bad_input(labels, told, groups, message):
    names = None if groups is None else np.array(groups, dtype=str)
    with pytest.raises(DataError, match=message):
        measure(np.array(labels, dtype=int), np.array(told, dtype=int), names)


def test_wilson_by_hand():
    # 8 of 10: centre (.8 + z2/20) / (1 + z2/10), z2 = 3.8415.
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(10, 10)[1] == pytest.approx(1.0)
    assert wilson(0, 0) is None
    with pytest.raises(ModelEditError, match="3 of 2"):
        wilson(3, 2)
    assert percentile(np.array([np.nan])) is None
