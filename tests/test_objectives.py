"""What an objective says of trials and of the test split; metric changes; scores against scores."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from modeledit.attacks.pgd import Pgd
from modeledit.contrast import check, contrasted
from modeledit.errors import DataError, ModelEditError
from modeledit.eval.aspects import Aspects
from modeledit.eval.attacks import Adversarial
from modeledit.eval.changes import metric_changes
from modeledit.eval.fairness import GroupDrop, measure
from modeledit.eval.gates import Limits, judge
from modeledit.eval.predictions import Predictions
from modeledit.objectives import (
    ATTACK_SUCCEEDS,
    GROUP_HARMED,
    NO_EFFECT,
    UTILITY_LOST,
    Seen,
    group_drops,
)
from modeledit.objectives.forgetting import Forgetting
from modeledit.objectives.hardening import IN_NOISE, WEAKENED, Hardening
from modeledit.objectives.repairing import IN_NOISE as GAP_IN_NOISE
from modeledit.objectives.repairing import NARROWED, Repairing
from modeledit.plugins import create
from modeledit.report import AttackMetrics, Changes, Measurement, SliceMetrics
from modeledit.targets import Accuracy, AttackSuccess, ForgetClass, GroupRecall
from modeledit.types import Scores

GROUPS = np.array(["a"] * 4 + ["b"] * 4)
LABELS = np.array([0, 0, 1, 1, 0, 0, 1, 1])


def seen(predicted, groups=GROUPS, times=1, **replay):
    labels = np.tile(LABELS[: len(predicted)], times)
    predicted = np.tile(np.array(predicted), times)
    n = len(predicted)
    numbers = np.ones(n, np.float32)
    groups = groups if times == 1 else np.tile(groups, times)
    return Seen(Predictions(labels, predicted, numbers, numbers, np.arange(n)), groups, **replay)


def repairing(metric="worst-group", **limits):
    return Repairing(Limits(**{"max_drop": 1.0, **limits}), Aspects(positive=1), metric)


BEFORE = [0, 0, 1, 0, 1, 1, 1, 1]  # a: 3 of 4, TPR .5, FPR 0; b: 2 of 4, TPR 1, FPR 1
AFTER = [0, 0, 1, 1, 0, 1, 1, 0]  # a: 4 of 4, TPR 1, FPR 0; b: 2 of 4, TPR .5, FPR .5


def test_groups_lose_nothing_with_a_forgotten_class():
    """a answers both images of class 1 right, then neither; class 0 stays as it was."""
    before, after = seen([0, 0, 1, 1, 0, 1, 1, 1]), seen([0, 0, 0, 0, 0, 1, 1, 1])
    rows = {name: drop for name, drop, _ in group_drops(before, after, ForgetClass((1,)))}
    assert rows == {"a": 0.0, "b": 0.0}
    rows = {name: drop for name, drop, _ in group_drops(before, after, Accuracy())}
    assert rows == {"a": 0.5, "b": 0.0}


def test_groups_too_small_for_a_gate_are_named_for_every_objective():
    """150 images of a, of which 50 show the forgotten class; 160 of b, none of which does."""
    groups = np.array(["a"] * 150 + ["b"] * 160)
    labels = np.array([1] * 50 + [0] * 260)
    data = SimpleNamespace(test=SimpleNamespace(groups=groups, labels=labels))
    limits = Limits(max_forget=0.1, max_retain_drop=0.1, max_group_drop=0.01)
    (note,) = Forgetting(limits, Aspects(positive=0), (1,)).doubts(data)
    assert note == "under 150 test images, so reported and not gated: a"
    assert repairing(max_group_drop=0.01).doubts(data) == ()
    groups[0] = "b"
    assert repairing(max_group_drop=0.01).doubts(data) == (note,)
    assert repairing().doubts(data) == ()


@pytest.mark.parametrize(
    ("metric", "before", "after"),
    [
        ("worst-group", 0.5, 0.5),
        ("equalized-odds", 1.0, 0.5),
        ("demographic-parity", 0.75, 0.0),
    ],
)
def test_a_trial_by_hand(metric, before, after):
    objective = repairing(metric)
    first = objective.trial(0, 0, seen(BEFORE), seen(BEFORE), 1.0)
    assert (first.value, first.worst_group, first.lost) == (before, "b", 0.0)
    trial = objective.trial(3, 7, seen(BEFORE), seen(AFTER), 1.0)
    assert trial.value == after
    assert (trial.strength, trial.changed_weights, trial.accuracy) == (3, 7, 0.75)
    assert trial.lost == -0.125
    assert (trial.most_harmed, trial.group_drop) == ("b", 0.0)


def test_a_trial_keeps_a_margin_to_both_gates():
    lost = [0, 0, 1, 0, 1, 1, 0, 0]  # b loses two of four: .5, standard error .25
    drop, error = 2 / 8, np.std([0] * 6 + [1] * 2) / np.sqrt(8)
    for limit, errors, feasible in (
        (drop + error + 1e-6, 1.0, True),
        (drop + error - 1e-6, 1.0, False),
        (drop + error + 1e-6, 2.0, False),
    ):
        trial = repairing(max_drop=limit).trial(1, 1, seen(BEFORE), seen(lost), errors)
        assert trial.feasible == feasible
    # A group's gate judges two standard errors below its drop: one of them is kept as margin.
    # Ten times the images: standard error .079.
    before, after = (seen(answers, times=10) for answers in (BEFORE, lost))
    for limit, errors, feasible in ((0.43, 1.0, True), (0.41, 1.0, False), (0.43, 2.0, False)):
        trial = repairing(max_group_drop=limit).trial(1, 1, before, after, errors)
        assert trial.feasible == feasible


def test_a_handful_of_images_does_not_decide_what_harms_a_group():
    lost = [0, 0, 1, 0, 1, 1, 0, 0]
    for times, feasible in ((4, True), (5, False)):  # b has 16 images, or 20
        before, after = (seen(answers, times=times) for answers in (BEFORE, lost))
        trial = repairing(max_group_drop=0.01).trial(1, 1, before, after, 1.0)
        assert trial.feasible == feasible
        assert (trial.most_harmed, trial.group_drop) == ("b", 0.5)


def test_groups_are_not_compared_by_a_class_that_is_forgotten():
    with pytest.raises(ModelEditError, match="class 1 is forgotten, so groups cannot be compared"):
        Forgetting(Limits(max_forget=0.1, max_retain_drop=0.1), Aspects(positive=1), (0, 1))


def test_metric_changes_are_differences_of_the_metrics():
    generator = np.random.default_rng(0)
    labels, groups = generator.integers(0, 3, 300), generator.choice(["x", "y", "z"], 300)
    before, after = (
        np.where(generator.random(300) < p, labels, (labels + 1) % 3) for p in (0.6, 0.8)
    )
    found = metric_changes(labels, before, after, groups, 1, seed=4)
    first, second = (measure(labels, p, groups, 1, draws=0).metrics for p in (before, after))
    for name, change in found.items():
        assert change.change == pytest.approx(getattr(second, name) - getattr(first, name))
        assert change.ci95[0] < change.ci95[1]
    assert found["accuracy_score"].ci95[0] > 0
    assert len(found) == 7
    same = metric_changes(labels, before, before, groups, 1)
    assert all(c.change == 0 == c.ci95[0] == c.ci95[1] for c in same.values())


def measured(accuracy=0.9, minimum=0.7, attack=None):
    whole = SliceMetrics(200, accuracy, accuracy, 0.1)
    fairness = {"accuracy_score_group_min": minimum}
    return Measurement(whole, (), fairness=fairness, attack=attack)


def changes(low=0.01, drop=0.0, n=200, sure=-0.02):
    from modeledit.eval.changes import MetricChange

    metrics = {"accuracy_score_group_min": MetricChange(0.05, (low, 0.09))}
    small = GroupDrop("tiny", 20, 0.5, (0.3, 0.7))  # under 150 images: not gated
    return Changes((GroupDrop("g", n, drop, (sure, drop + 0.02)), small), metrics)


@pytest.mark.parametrize(
    ("after", "found", "word"),
    [
        (measured(minimum=0.75), changes(), NARROWED),
        (measured(minimum=0.75), changes(low=-0.01), GAP_IN_NOISE),
        (measured(minimum=0.70), changes(), NO_EFFECT),
        (measured(minimum=0.65), changes(), NO_EFFECT),
        (measured(accuracy=0.894, minimum=0.8), changes(), UTILITY_LOST),
        (measured(accuracy=0.895, minimum=0.8), changes(), NARROWED),  # exactly at the limit
        (measured(minimum=0.8), changes(drop=0.04, sure=0.011), GROUP_HARMED),
        (measured(minimum=0.8), changes(drop=0.04, sure=0.010), NARROWED),
        (measured(minimum=0.8), changes(drop=0.4, sure=0.3, n=149), NARROWED),
    ],
)
def test_verdict_of_a_repair(after, found, word):
    objective = repairing(max_drop=0.005, max_group_drop=0.01)
    said = objective.verdict(measured(), after, found)
    assert said[0] == word
    assert word != NARROWED or said[1].endswith("-9.0 to -1.0 points")  # of the error
    gates = objective.gates(measured(), after, found)
    assert all(g.passed for g in gates) == (word in (NARROWED, GAP_IN_NOISE))
    assert gates[0].strict
    assert len(gates) == (2 if found.groups[0].n < 150 else 3)


def attacked(replayed, adaptive):
    return AttackMetrics("pgd", {}, 100, 90, 0.9, 0.1, adaptive, 90, replayed, 0.1, {})


@pytest.mark.parametrize(
    ("replayed", "adaptive", "accuracy", "limits", "word"),
    [
        (0.4, 0.9, 0.9, {}, WEAKENED),
        (0.9, 0.9, 0.9, {}, NO_EFFECT),
        (0.4, 0.9, 0.8, {}, UTILITY_LOST),
        (0.4, 0.9, 0.9, {"max_attack_success": 0.3}, ATTACK_SUCCEEDS),
        (0.4, 0.9, 0.9, {"max_attack_success": 0.4}, WEAKENED),
        (0.4, 0.9, 0.9, {"max_adaptive_success": 0.5}, ATTACK_SUCCEEDS),
        (0.4, None, 0.9, {"max_adaptive_success": 0.5}, ATTACK_SUCCEEDS),
    ],
)
def test_verdict_of_hardening_never_says_robust(replayed, adaptive, accuracy, limits, word):
    objective = Hardening(Limits(max_drop=0.01, **limits), Aspects(attack=Pgd()))
    before = measured(attack=attacked(0.9, 0.9))
    after = measured(accuracy, attack=attacked(replayed, adaptive))
    said = objective.verdict(before, after, None)
    assert said[0] == word
    assert "robust" not in " ".join(said)
    passed = all(g.passed for g in objective.gates(before, after, None))
    assert passed == (word == WEAKENED)
    if word == WEAKENED:
        assert said[1].endswith("images made anew on the edited network succeed on 90.0 %")


@pytest.mark.parametrize(("high", "word"), [(0.91, IN_NOISE), (0.9, IN_NOISE), (0.89, WEAKENED)])
def test_a_replay_weakened_within_its_interval_is_said_to_be(high, word):
    objective = Hardening(Limits(max_drop=0.01), Aspects(attack=Pgd()))
    after = replace(attacked(0.85, 0.9), ci95={"replay_success_rate": (0.8, high)})
    found = measured(attack=attacked(0.9, 0.9)), measured(attack=after)
    assert objective.verdict(*found, None)[0] == word
    assert objective.gates(*found, None)[0].passed


def test_success_is_counted_over_what_the_unedited_network_knows():
    pixels = torch.zeros(4, 1, 1, 1)
    labels, targets = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 0, 0])
    correct = np.array([True, True, True, False])
    numbers = np.ones(4, np.float32)
    answers = Predictions(labels.numpy(), np.array([1, 0, 1, 0]), numbers, numbers, np.arange(4))
    for wanted in (targets, None):
        made = Adversarial(Pgd(), pixels, pixels, labels, wanted, torch.arange(4), correct)
        assert seen(BEFORE, replayed=answers, made=made).success() == (1 / 3, 2 / 3)


def test_limits_on_what_is_not_measured_are_refused():
    with pytest.raises(ModelEditError, match="--max-group-drop needs groups"):
        Hardening(Limits(max_drop=0.1, max_group_drop=0.1), Aspects(attack=Pgd()))
    with pytest.raises(ModelEditError, match="--max-attack-success needs an attack"):
        Repairing(Limits(max_attack_success=0.1), Aspects(positive=1))
    with pytest.raises(ModelEditError, match="no attack was named"):
        Hardening(Limits(), Aspects())
    with pytest.raises(ModelEditError, match="'best' is not known: use one of worst-group"):
        repairing("best")
    with pytest.raises(ModelEditError, match="--max-drop 2 is not a share"):
        Limits(max_drop=2)
    assert judge(measured(), measured(), Limits()) == ()


def test_an_attack_that_nothing_can_be_said_of_is_an_error():
    objective = Hardening(Limits(max_drop=0.01), Aspects(attack=Pgd()))
    nothing = measured(attack=attacked(None, None))
    with pytest.raises(DataError, match="no attacked test image"):
        objective.gates(nothing, nothing, None)


def scores(raw, **header):
    found = {"w": torch.tensor(raw)}
    return Scores("filter", found, raw=found, header={"scorer": "s", "passes": 3, **header})


def test_contrast_by_hand():
    attack, accuracy = scores([3.0, 4.0, 0.0, 0.0]), scores([0.0, 2.0, 0.0, 0.0])
    found = contrasted(attack, accuracy, AttackSuccess(), Accuracy())
    torch.testing.assert_close(found.values["w"], torch.tensor([1.2, 1.6 - 2.0, 0, 0]))
    assert found.header["keep"] == "accuracy"
    assert found.header["passes"] == 6
    groups = contrasted(attack, accuracy, GroupRecall(), Accuracy())
    torch.testing.assert_close(groups.values["w"], torch.tensor([-1.2, -1.6 - 2.0, 0, 0]))
    still = contrasted(attack, scores([0.0] * 4), AttackSuccess(), GroupRecall())
    torch.testing.assert_close(still.values["w"], torch.tensor([1.2, 1.6, 0, 0]))


def test_contrast_needs_signed_contributions():
    attack = scores([1.0, 2.0])
    for other in (
        Scores("filter", attack.values, header={"scorer": "s"}),
        scores([1.0], steps=[1]),
    ):
        with pytest.raises(ModelEditError, match="s gives no signed contributions"):
            contrasted(attack, other, AttackSuccess(), Accuracy())
    with pytest.raises(ModelEditError, match="nothing to keep"):
        check(create("scorers", "gate-ig"), Accuracy(), AttackSuccess())


def test_of_groups_of_equal_recall_the_largest_is_the_worst():
    labels = np.array([0, 1, 0, 1, 0, 1])
    answers = Predictions(labels, 1 - labels, *(np.zeros(6, np.float32),) * 2, np.arange(6))
    found = repairing().value(Seen(answers, np.array(["a", "a", "b", "b", "b", "b"])))
    assert found[1] == "b"
