"""What can be forgotten, and what the main job refuses or notes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pipeline_cases import FEW, assert_same_state, random_edit
from safetensors.torch import load_file

import modeledit
from modeledit import demo, pipeline
from modeledit.errors import CheckpointError, DataError, ModelEditError
from modeledit.eval.aspects import Aspects
from modeledit.eval.gates import Limits
from modeledit.judging import Baseline, margin_note
from modeledit.objectives.forgetting import Forgetting
from modeledit.plugins import create
from modeledit.scorers.stepwise_peps import StepwisePeps
from modeledit.surgery import apply
from modeledit.targets import ForgetClass


@pytest.fixture(scope="module")
def few():
    return Baseline(*demo.load(FEW))


def test_several_classes_by_name_and_number(few):
    data = replace(few.data, class_names=("zero", "one", "two", "three", *"456789"))
    result = modeledit.unlearn(few.loaded, data, ["three", 5, "0"], scorer="random", strength=1)
    assert result.report.target == "class:0,3,5"
    recalls = [result.report.after.per_class[c].recall for c in (0, 3, 5)]
    assert result.report.after.forgotten_recall == max(recalls)
    shown = sum(result.report.after.per_class[c].support for c in (0, 3, 5))
    assert result.report.after.forget.n == shown


def test_names_that_are_other_numbers(few):
    """A model that counts its classes from 1: the scores of class '3' edit index 2, not '2'."""
    data = replace(few.data, class_names=tuple(map(str, range(1, 11))))
    target = pipeline.forget_target("3", data)
    assert target.classes == (2,)
    scores = pipeline.score(few.loaded, data, target, "random")
    result = pipeline.edit(few.loaded, data, scores, strength=1)
    assert result.report.target == "class:2"


@pytest.mark.parametrize(
    ("forget", "message"),
    [
        (12, "class 12 is out of range: the model has 10 classes, 0 to 9"),
        ("cat", "class 'cat' is not known: use a number or one of 0, 1"),
        ([], "no class to forget was given"),
        (range(10), "the train split has no image of a class to retain"),
    ],
)
def test_classes_that_cannot_be_forgotten(forget, message, few):
    with pytest.raises(ModelEditError, match=message):
        modeledit.unlearn(few.loaded, few.data, forget)


def test_a_class_must_be_in_every_split(few):
    split = few.data.test
    data = replace(few.data, test=split.where(split.labels != 3))
    with pytest.raises(DataError, match="the test split has no image of class '3'"):
        modeledit.unlearn(few.loaded, data, 3)


def test_more_than_the_order_of_editing_is_refused(few):
    order = pipeline.score(few.loaded, few.data, ForgetClass((3,)))
    with pytest.raises(ModelEditError, match="order of editing"):
        create("editors", "zero")(order, order.header["steps"][-1] + 1)


def test_an_order_of_nothing_edits_nothing(few):
    order = pipeline.score(few.loaded, few.data, ForgetClass((3,)))
    empty = replace(order, header={**order.header, "steps": []})
    assert create("editors", "zero")(empty, 0).changed_weights == 0
    with pytest.raises(ModelEditError, match="order of editing 0 weights"):
        create("editors", "zero")(empty, 1)


def test_few_test_images_and_a_cut_validation_split_are_noted(few):
    held = int((few.data.test.labels == 3).sum())
    tight, wide = (Forgetting(Limits(limit, 0.01), Aspects(), (3,)) for limit in (0.5 / held, 1.0))
    assert "cannot resolve" in tight.doubts(few.data)[0]
    assert wide.doubts(few.data) == ()
    cut = replace(few.data, validation_is_training=True)
    assert "two standard errors" in margin_note(cut, searched=True)[0]
    assert margin_note(cut, searched=False) == margin_note(few.data, searched=True) == ()


def test_a_written_plan_holds_values_and_no_factors(few):
    """A factor and an edited weight together would give the old weight away."""
    scores = pipeline.score(few.loaded, few.data, ForgetClass((3,)), "ssd")
    result = pipeline.edit(few.loaded, few.data, scores, editor="dampen", strength=50, baseline=few)
    assert all(c.action == "set" or not c.operand.any() for c in result.plan.changes)
    planned = create("editors", "dampen")(scores, 50)
    expected = apply(few.loaded.module, planned).state_dict()
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(tensor, expected[name])


def test_a_class_that_was_gone_before_is_not_called_suppressed(few):
    result = modeledit.unlearn(few.loaded, few.data, 3, baseline=few)
    gone = replace(few.loaded, module=result.model, checkpoint=None)
    again = modeledit.unlearn(gone, few.data, 3)
    assert again.report.verdict == "no effect"
    assert "nothing left to forget" in again.report.explanation


def test_where_nothing_is_left_to_forget_nothing_is_edited(few, tmp_path):
    """The scorer's order is empty: no weight is better than another, and none is drawn."""
    result = modeledit.unlearn(few.loaded, few.data, 3, scorer=StepwisePeps(enough=1e9))
    assert result.scores.header["steps"] == []
    assert result.plan.changes == ()
    assert result.report.edit.strength == 0
    assert result.report.after == result.report.before
    out = result.save(tmp_path / "out", force=True)
    assert_same_state(load_file(out / "model.safetensors"), few.loaded.base_state())


def test_an_unwritable_place_is_named(few, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(CheckpointError, match="file"):
        random_edit(few).save(Path(tmp_path / "file" / "out"), force=True)
    assert (tmp_path / "file").read_text() == "precious"
