"""Metrics by class and slice: by hand, and beside scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn

from modeledit.data import Split
from modeledit.errors import ModelEditError, ModelError
from modeledit.eval.aspects import Aspects
from modeledit.eval.classes import calibration_error, slice_metrics, summarise, worst_recall
from modeledit.eval.gates import Limits
from modeledit.eval.predictions import Predictions, predict
from modeledit.objectives import NO_EFFECT, UTILITY_LOST
from modeledit.objectives.forgetting import SUPPRESSED, Forgetting
from modeledit.report import Measurement, SliceMetrics
from modeledit.runtime import Runtime
from modeledit.targets import Accuracy, ForgetClass

NAMES = ("a", "b", "c")


def answers(labels, predicted, confidence=None):
    labels, predicted = np.array(labels), np.array(predicted)
    confidence = np.full(len(labels), 0.5) if confidence is None else np.array(confidence)
    margin = np.where(labels == predicted, 1.0, -1.0)
    return Predictions(
        labels, predicted, confidence.astype(np.float32), margin, np.arange(len(labels))
    )


def test_slices_by_hand():
    found = summarise(answers([0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 1, 0]), ForgetClass((2,)), NAMES)
    assert found.all.accuracy == pytest.approx(3 / 6)
    assert (found.forget.n, found.forget.accuracy) == (2, 0.0)
    assert (found.retain.n, found.retain.accuracy) == (4, 0.75)
    # On retain: a has P 1, R 1/2; b has P 2/3, R 1. c does not occur there and is no class of it.
    assert found.retain.macro_f1 == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert [(x.name, x.share) for x in found.landings] == [("a", 0.5), ("b", 0.5)]
    assert found.forgotten_recall == 0.0
    assert found.per_class[1].precision == pytest.approx(2 / 4)


def test_macro_f1_is_scikit_learns():
    draw = np.random.default_rng(0)
    labels, predicted = draw.integers(0, 5, 300), draw.integers(0, 5, 300)
    expected = f1_score(labels, predicted, average="macro")
    assert slice_metrics(answers(labels, predicted), 5).macro_f1 == pytest.approx(expected)


def test_accuracy_target_has_no_slices():
    found = summarise(answers([0, 1], [0, 1]), Accuracy(), NAMES)
    assert found.forget is None
    assert found.retain is None


def test_worst_recall_is_the_highest_of_the_forgotten():
    found = answers([0, 0, 1, 1, 2], [0, 2, 1, 1, 2])
    assert worst_recall(found, ForgetClass((0, 1))) == 1.0
    assert worst_recall(found, ForgetClass((0,))) == 0.5


def test_calibration_error_by_hand():
    # Bin of .95: 2 right of 2, gap .05; bin of .55: 0 right of 2, gap .55.
    found = answers([0, 1, 0, 1], [0, 1, 1, 0], [0.95, 0.95, 0.55, 0.55])
    assert calibration_error(found) == pytest.approx(0.5 * 0.05 + 0.5 * 0.55, abs=1e-6)


def test_full_confidence_belongs_to_the_last_bin():
    assert calibration_error(answers([0, 0], [0, 1], [1.0, 1.0])) == pytest.approx(0.5)


def test_predict_reduces_logits():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 3.0]])
    data = torch.utils.data.TensorDataset(logits[:, :, None, None], torch.tensor([0, 1]))
    runtime = Runtime(batch_size=1)
    found = predict(nn.Flatten(), Split.of(data, "test"), runtime, "test")
    np.testing.assert_array_equal(found.predicted, [0, 2])
    np.testing.assert_allclose(found.margin, [2.0, -2.0])
    np.testing.assert_allclose(found.confidence, logits.softmax(1).amax(1), rtol=1e-6)
    assert runtime.meter.images == 2


def test_predict_refuses_outputs_that_are_not_finite():
    data = torch.utils.data.TensorDataset(torch.full((1, 2, 1, 1), torch.nan), torch.tensor([0]))
    with pytest.raises(ModelError, match="not finite"):
        predict(nn.Flatten(), Split.of(data, "test"), Runtime(), "test")


def test_predict_gives_the_mode_back():
    data = torch.utils.data.TensorDataset(torch.zeros(1, 2, 1, 1), torch.tensor([0]))
    model = nn.Sequential(nn.Dropout(), nn.Flatten()).train()
    predict(model, Split.of(data, "test"), Runtime(), "test")
    assert model.training


def measured(recall, retain):
    whole = SliceMetrics(10, 0.9, 0.9, 0.1)
    kept = SliceMetrics(8, retain, retain, 0.1)
    return Measurement(whole, (), forget=whole, retain=kept, forgotten_recall=recall)


@pytest.mark.parametrize(
    ("recall", "retain", "word"),
    [
        (0.0, 0.90, SUPPRESSED),
        (0.01, 0.89, SUPPRESSED),  # exactly at both limits
        (0.02, 0.90, NO_EFFECT),
        (0.0, 0.88, UTILITY_LOST),
        (0.9, 0.50, UTILITY_LOST),  # utility first
    ],
)
def test_verdict(recall, retain, word):
    before, after = measured(0.9, 0.90), measured(recall, retain)
    forgetting = Forgetting(Limits(0.01, 0.01), Aspects(), (0,))
    assert forgetting.verdict(before, after, None)[0] == word
    gates = forgetting.gates(before, after, None)
    assert all(g.passed for g in gates) == (word == SUPPRESSED)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_limits_are_shares(value):
    with pytest.raises(ModelEditError, match="max-forget"):
        Limits(max_forget=value)
