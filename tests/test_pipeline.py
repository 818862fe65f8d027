"""The main job end to end on the demo, and on networks and data from Python."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import modeledit
from modeledit import demo, pipeline
from modeledit.checkpoint import read_state, revert, verify
from modeledit.errors import CheckpointError, DataError, GateError, ModelEditError
from modeledit.eval.aspects import Aspects
from modeledit.eval.gates import Limits
from modeledit.judging import Baseline, margin_note
from modeledit.models import load_model
from modeledit.objectives.forgetting import Forgetting
from modeledit.plugins import create
from modeledit.runtime import Runtime
from modeledit.scorers.random import Random
from modeledit.scorers.stepwise_peps import StepwisePeps
from modeledit.surgery import apply
from modeledit.targets import ForgetClass
from modeledit.toys import PlantedNet, everything, images

# A seventh of the images is enough for everything but the gates.
FEW = 150


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


def assert_same_state(found, want):
    assert list(found) == list(want)
    assert all(torch.equal(found[name], want[name]) for name in want)


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


def random_edit(few, **options):
    given = {"scorer": "random", "strength": 1, "baseline": few, **options}
    return modeledit.unlearn(few.loaded, few.data, 3, **given)


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


@pytest.mark.parametrize(
    ("scorer", "editor"), [("response-norm", "mean-ablate"), ("ssd", "dampen"), ("peps", "zero")]
)
def test_other_scorers_and_editors(scorer, editor, few, tmp_path):
    before = everything(few.loaded.module)
    result = modeledit.unlearn(few.loaded, few.data, 3, scorer=scorer, editor=editor)
    assert everything(few.loaded.module) == before
    assert (result.report.edit.scorer, result.report.edit.editor) == (scorer, editor)
    assert result.report.edit.granularity == ("filter" if scorer == "response-norm" else "weight")
    out = result.save(tmp_path / "out", force=True)
    assert_same_state(load_model(out).module.state_dict(), result.model.state_dict())
    assert all(check.passed for check in verify(out))


@pytest.mark.parametrize("scorer", ["response-norm", "ssd", "random"])
def test_the_search_measures_what_the_edit_does(scorer, few):
    """The chosen trial's numbers are those of the edited network run in full."""
    editor = "mean-ablate" if scorer == "response-norm" else "zero"
    result = modeledit.unlearn(few.loaded, few.data, 3, scorer=scorer, editor=editor)
    chosen = next(trial for trial in result.report.search if trial.chosen)
    full = pipeline.measure(
        result.model, few.data.validation, ForgetClass((3,)), few.data.class_names
    )
    assert chosen.forget == full.forgotten_recall
    assert chosen.retain == full.retain.accuracy


@pytest.mark.parametrize(
    "options", [{"order": "lowest"}, {"allocation": "per-tensor"}], ids=["lowest", "per-tensor"]
)
def test_an_edit_outside_the_scored_end_is_measured_in_full(options, few):
    """Weights that the default scorer never zeroes lie before the end that the search repeats."""
    editor = create("editors", "zero", options)
    order = pipeline.score(few.loaded, few.data, ForgetClass((3,)))
    with pytest.raises(ModelEditError, match="order highest and allocation global"):
        editor(order, 1)
    scores = replace(order, header={k: v for k, v in order.header.items() if k != "steps"})
    result = pipeline.edit(few.loaded, few.data, scores, editor=editor, baseline=few)
    last = max(result.report.search, key=lambda trial: trial.strength)
    edited = apply(few.loaded.module, editor(result.scores, last.strength))
    full = pipeline.measure(edited, few.data.validation, ForgetClass((3,)), few.data.class_names)
    assert (last.forget, last.retain) == (full.forgotten_recall, full.retain.accuracy)


def test_half_precision_stays_half(few, tmp_path):
    half = {
        name: t.half() if t.is_floating_point() else t
        for name, t in load_file(demo.WEIGHTS).items()
    }
    base = tmp_path / "half.safetensors"
    save_file(half, base, metadata={"format": "pt"})
    how = demo.preprocessing()
    loaded = load_model(
        f"timm:{demo.ARCHITECTURE}", base, args=demo.ARGS, mean=how.mean, std=how.std,
        input_size=32, class_names=demo.NAMES,
    )  # fmt: skip
    result = modeledit.unlearn(loaded, few.data, 3)
    out = result.save(tmp_path / "out", force=True)
    written = read_state(out / "model.safetensors")
    assert {name: t.dtype for name, t in written.items()} == {n: t.dtype for n, t in half.items()}
    assert sum(int((written[n] != half[n]).sum()) for n in half) <= result.plan.changed_weights
    back = revert(out, None, tmp_path / "back.safetensors")
    assert back.path.read_bytes() == base.read_bytes()


def planted_sets():
    return tuple(images(90) for _ in range(3))


def test_a_module_and_three_data_sets(tmp_path):
    model = PlantedNet()
    before = everything(model)
    result = modeledit.unlearn(model, planted_sets(), forget=1, scorer="peps")
    assert everything(model) == before
    assert result.passed
    assert result.model.conv.weight.flatten().tolist() == pytest.approx([-1, -0.5, 0, 0.1])
    assert result.report.data["splits"] == {"train": 90, "validation": 90, "test": 90}
    out = result.save(tmp_path / "out")
    assert all(check.passed for check in verify(out))
    with pytest.raises(ModelEditError, match=r"give --model and --checkpoint"):
        load_model(out)


def test_the_card_of_a_module_says_how_to_load_it(tmp_path):
    result = modeledit.unlearn(PlantedNet(), planted_sets(), forget=1, scorer="peps")
    out = result.save(tmp_path / "out")
    card = (out / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("```")[0].replace("PATH", str(out))
    scope = {"model": PlantedNet()}
    exec(code, scope)
    assert_same_state(scope["model"].state_dict(), result.model.state_dict())


@pytest.mark.parametrize("outputs", [2, 5])
def test_a_network_of_other_classes_is_refused(outputs):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(64, outputs))
    message = f"{outputs} outputs.*3 classes"
    with pytest.raises(ModelEditError, match=message):
        modeledit.unlearn(model, planted_sets(), forget=1, scorer="random")
    with pytest.raises(ModelEditError, match=message):
        pipeline.evaluate(model, planted_sets())
    with pytest.raises(ModelEditError, match=message):
        pipeline.score(model, planted_sets(), ForgetClass((1,)), "random")


def test_where_nothing_is_left_to_forget_nothing_is_edited(few, tmp_path):
    """The scorer's order is empty: no weight is better than another, and none is drawn."""
    result = modeledit.unlearn(few.loaded, few.data, 3, scorer=StepwisePeps(enough=1e9))
    assert result.scores.header["steps"] == []
    assert result.plan.changes == ()
    assert result.report.edit.strength == 0
    assert result.report.after == result.report.before
    out = result.save(tmp_path / "out", force=True)
    assert_same_state(load_file(out / "model.safetensors"), few.loaded.base_state())


def test_the_seed_is_all_that_matters(few):
    def digest(seed, batch_size=128):
        runtime = Runtime(seed=seed, batch_size=batch_size)
        options = {"scorer": Random(), "strength": 0.01, "runtime": runtime}
        return modeledit.unlearn(few.loaded, few.data, 3, **options).plan.digest()

    state = torch.random.get_rng_state()
    assert digest(1) == digest(1, 7) != digest(2)
    assert torch.equal(state, torch.random.get_rng_state())


def test_an_unwritable_place_is_named(few, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(CheckpointError, match="file"):
        random_edit(few).save(Path(tmp_path / "file" / "out"), force=True)
    assert (tmp_path / "file").read_text() == "precious"
