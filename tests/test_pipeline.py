"""The main job end to end on the demo, in one step and in two, and what it writes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from pipeline_cases import FEW, assert_same_state, random_edit

import modeledit
from modeledit import demo, pipeline
from modeledit.checkpoint import revert, verify
from modeledit.errors import CheckpointError, GateError, ModelEditError
from modeledit.judging import Baseline
from modeledit.models import load_model
from modeledit.targets import ForgetClass
from modeledit.toys import everything


@pytest.fixture(scope="module")
def network():
    return demo.load()


@pytest.fixture(scope="module")
def few():
    return Baseline(*demo.load(FEW))


@pytest.fixture(scope="module")
def forgotten(network):
    """Class 3 with the default settings; what a caller must not see changed; the scores handed."""
    loaded, data = network
    before, seen = everything(loaded.module), []
    result = modeledit.unlearn(loaded, data, 3, on_scores=seen.append)
    return result, before == everything(loaded.module), seen


def test_the_gates_pass(forgotten):
    result, untouched, seen = forgotten
    assert untouched
    assert result.passed
    assert seen == [result.scores]
    report = result.report
    assert (report.task, report.target, report.verdict) == (
        "unlearn",
        "class:3",
        "suppressed, unverified",
    )
    assert report.after.forgotten_recall <= 0.01 < 0.9 < report.before.forgotten_recall
    assert report.before.retain.accuracy - report.after.retain.accuracy <= 0.01
    assert report.after.per_class[3].recall == report.after.forgotten_recall
    assert report.after.forget.n + report.after.retain.n == report.after.all.n == 359
    assert [trial.chosen for trial in report.search].count(True) == 1
    assert report.edit.strength == next(t.strength for t in report.search if t.chosen)
    assert report.cost.score.passes > 0 < report.cost.search.passes
    assert report.cost.evaluate.passes == 2 * 359


def test_the_counts_are_those_of_the_weights(forgotten):
    result = forgotten[0]
    base, edited = result.loaded.base_state(), result.model.state_dict()
    assert list(base) == list(edited) or set(base) <= set(edited)
    changed = {name: int((base[name] != edited[name]).sum()) for name in base}
    already = sum(
        int((base[c.tensor].flatten()[c.indices] == 0).sum()) for c in result.plan.changes
    )
    edit = result.report.edit
    assert sum(changed.values()) + already == edit.changed_weights == result.plan.changed_weights
    assert edit.changed_weights == edit.strength == sum(row["changed"] for row in edit.by_layer)
    assert {row["layer"] for row in edit.by_layer} >= {n for n, count in changed.items() if count}
    total = sum(p.numel() for p in result.model.parameters())
    assert edit.changed_fraction == edit.changed_weights / total
    assert not any(name.startswith("head.") for name, count in changed.items() if count)
    assert edit.digest == result.plan.digest()


def test_the_directory_holds_the_network_that_was_judged(forgotten, network, tmp_path):
    result = forgotten[0]
    out = result.save(tmp_path / "out")
    names = ["README.md", "config.json", "edit.safetensors", "model.safetensors", "report.json"]
    assert sorted(p.name for p in out.iterdir()) == [*names, "undo.safetensors"]
    again = load_model(out)
    assert_same_state(again.module.state_dict(), result.model.state_dict())
    assert json.loads((out / "report.json").read_text()) == json.loads(result.report.to_json())
    assert all(check.passed for check in verify(out))
    measured = pipeline.evaluate(again, network[1], ForgetClass((3,)))
    assert measured.before == result.report.after
    back = revert(out, None, tmp_path / "back.safetensors")
    assert back.exact
    assert back.path.read_bytes() == demo.WEIGHTS.read_bytes()


def test_scores_and_edit_are_unlearn_in_two_steps(forgotten, network):
    result = forgotten[0]
    again = pipeline.edit(*network, result.scores)
    assert again.report.task == "edit"
    assert again.plan.digest() == result.plan.digest()
    assert again.report.model == result.report.model
    assert again.report.after == result.report.after
    assert again.report.search == result.report.search
    made_before = again.report.cost.score
    assert (made_before.seconds, made_before.passes) == (0, result.report.cost.score.passes)


def test_a_failed_gate_is_not_saved(few, tmp_path):
    result = random_edit(few)
    assert not result.passed
    assert result.report.verdict == "no effect"
    with pytest.raises(GateError, match="not saved, no effect: the class is still recognised"):
        result.save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    out = result.save(tmp_path / "out", force=True)
    assert json.loads((out / "report.json").read_text())["verdict"] == "no effect"
    stamp = (out / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="exists"):
        random_edit(few, strength=2).save(tmp_path / "out", force=True)
    assert (out / "model.safetensors").read_bytes() == stamp
    random_edit(few, strength=2).save(tmp_path / "out", force=True, overwrite=True, undo=False)
    assert (out / "model.safetensors").read_bytes() != stamp
    assert not (out / "undo.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_harmful_edit_is_utility_lost(few):
    assert random_edit(few, strength=0.9).report.verdict == "utility lost"


def test_a_baseline_is_not_measured_again(few):
    alone = modeledit.unlearn(few.loaded, few.data, 3, scorer="magnitude", strength=0.01)
    shared = random_edit(few, scorer="magnitude", strength=0.01)
    assert shared.plan.digest() == alone.plan.digest()
    assert shared.report.before == alone.report.before
    assert shared.report.after == alone.report.after
    assert shared.report.cost.evaluate.passes == FEW
    assert alone.report.cost.evaluate.passes == 2 * FEW


def test_a_baseline_gives_the_same_search(few):
    found = [modeledit.unlearn(few.loaded, few.data, c, baseline=few) for c in (3, 8, 3)]
    fresh = modeledit.unlearn(few.loaded, few.data, 3)
    for each in (found[0], found[2]):
        assert each.plan.digest() == fresh.plan.digest()
        assert each.report.search == fresh.report.search
        assert each.report.after == fresh.report.after
    assert found[1].plan.digest() != found[0].plan.digest()


def test_scores_of_another_model_are_refused(few, forgotten):
    scores = forgotten[0].scores
    other = replace(scores, header={**scores.header, "model_digest": "0"})
    with pytest.raises(ModelEditError, match="the scores were made for another model"):
        pipeline.edit(few.loaded, few.data, other)
    here = {**scores.header, "data_digest": few.data.digest()}
    accuracy = replace(scores, header={**here, "target": "accuracy"})
    with pytest.raises(ModelEditError, match="these scores are for accuracy"):
        pipeline.edit(few.loaded, few.data, accuracy)


def test_scores_of_another_cut_are_refused(few, forgotten):
    """Their training images may be test images here."""
    scores = forgotten[0].scores
    other = replace(scores, header={**scores.header, "data_digest": "0", "seed": 7})
    with pytest.raises(ModelEditError, match=r"another cut of it.*--seed \(7\)"):
        pipeline.edit(few.loaded, few.data, other)


def test_evaluate_measures_and_writes_nothing(few):
    report = pipeline.evaluate(few.loaded, few.data)
    assert (report.task, report.target, report.edit, report.after) == (
        "evaluate",
        "none",
        None,
        None,
    )
    assert report.before.forget is None
    assert report.passed
    apart = pipeline.evaluate(few.loaded, few.data, ForgetClass((3, 4)))
    assert apart.before.all == report.before.all
    assert apart.before.forget.n == int(np.isin(few.data.test.labels, (3, 4)).sum())
    alone = pipeline.measure(few.loaded.module, few.data.test, None, few.data.class_names)
    assert alone == report.before
