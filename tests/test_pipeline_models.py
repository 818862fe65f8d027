"""The main job with other scorers and editors, and networks and data from Python."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pipeline_cases import FEW, assert_same_state
from safetensors.torch import load_file, save_file
from torch import nn

import modeledit
from modeledit import demo, pipeline
from modeledit.checkpoint import read_state, revert, verify
from modeledit.errors import ModelEditError
from modeledit.judging import Baseline
from modeledit.models import load_model
from modeledit.plugins import create
from modeledit.runtime import Runtime
from modeledit.scorers.random import Random
from modeledit.surgery import apply
from modeledit.targets import ForgetClass
from modeledit.toys import PlantedNet, everything, images


@pytest.fixture(scope="module")
def few():
    return Baseline(*demo.load(FEW))


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


def test_the_seed_is_all_that_matters(few):
    def digest(seed, batch_size=128):
        runtime = Runtime(seed=seed, batch_size=batch_size)
        options = {"scorer": Random(), "strength": 0.01, "runtime": runtime}
        return modeledit.unlearn(few.loaded, few.data, 3, **options).plan.digest()

    state = torch.random.get_rng_state()
    assert digest(1) == digest(1, 7) != digest(2)
    assert torch.equal(state, torch.random.get_rng_state())
