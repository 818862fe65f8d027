"""The editor that zeroes and retrains: a step by hand, what stays frozen, cost, data, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeledit.cost import Clock
from modeledit.data import Split
from modeledit.editors.finetune_layers import FinetuneLayers
from modeledit.editors.zero import Zero
from modeledit.errors import ModelEditError
from modeledit.remarks import remarks
from modeledit.report.card import model_card
from modeledit.runtime import Runtime
from modeledit.surgery import apply
from modeledit.toys import images, net
from modeledit.types import Scores

SPLIT = Split.of(images(), "train")
UNITS = Scores(
    "filter", {"conv1": torch.arange(4.0), "conv2": torch.arange(4.0) - 9},
    header={"target": "class:1"},
)  # fmt: skip


def weights(name="conv2.weight", **header):
    values = torch.arange(144.0).reshape(4, 4, 3, 3)
    return Scores("weight", {name: values}, header={"target": "class:1", **header})


def tensors(model):
    return {name: t.clone() for name, t in model.state_dict().items()}


def test_one_step_is_a_step_of_gradient_descent_on_retained_images():
    model, scores = net("norm").eval(), weights()
    # 16 of the 24 images are of other classes: one batch holds them all, whatever the order.
    plan = FinetuneLayers(steps=1, images=16, rate=0.5)(scores, 10, model, SPLIT)
    start = apply(model, Zero()(scores, 10)).eval()
    data = images()
    kept = data.tensors[1] != 1
    loss = F.cross_entropy(start(data.tensors[0][kept]), data.tensors[1][kept])
    (gradient,) = torch.autograd.grad(loss, [start.conv2.weight])
    wanted = (start.conv2.weight - 0.5 * gradient).detach()
    wanted.view(-1)[-10:] = 0  # the largest scores stay at 0
    torch.testing.assert_close(apply(model, plan).conv2.weight.detach(), wanted)
    assert plan.header["training"] == {
        "parameters": ["conv2.weight"], "weights": 144, "steps": 1, "images": 16, "batch": 16,
    }  # fmt: skip


def test_zeroed_weights_stay_and_everything_else_is_frozen():
    model = net("norm")
    plan = FinetuneLayers(steps=5, rate=0.1)(weights(), 20, model, SPLIT)
    before, after = tensors(model), tensors(apply(model, plan))
    assert bool((after["conv2.weight"].flatten()[-20:] == 0).all())
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"conv2.weight"}  # running statistics too


def test_a_pinned_unit_stays_pinned_and_only_its_layer_trains():
    model = net("norm")
    plan = FinetuneLayers(steps=5, rate=0.1)(UNITS, 1, model, SPLIT)
    edited = apply(model, plan).eval()
    assert plan.units == {"conv1": (3,)}
    seen = []
    edited.bn1.register_forward_hook(lambda *a: seen.append(a[2]))
    edited(images()[0][0][None])
    assert not bool(seen[0][:, 3].any())
    changes = {change.tensor for change in plan.changes}
    assert "conv1.weight" in changes
    assert not changes & {"conv2.weight", "head.weight", "bn2.weight"}


def test_training_helps_the_retained_classes():
    model = net("norm").eval()
    data, scores = images(), weights()
    kept = data.tensors[1] != 1

    @torch.no_grad()
    def loss(plan):
        return float(F.cross_entropy(apply(model, plan).eval()(data.tensors[0][kept]),
                                     data.tensors[1][kept]))  # fmt: skip

    assert loss(FinetuneLayers(steps=40)(scores, 70, model, SPLIT)) < loss(Zero()(scores, 70))


def test_other_targets_train_on_all_images():
    plan = FinetuneLayers(steps=1)(weights(target="accuracy"), 5, net("norm"), SPLIT)
    assert plan.header["training"]["images"] == 24


def test_what_it_takes_is_counted_as_edit_whenever_it_is_done():
    clock, editor = Clock(Runtime()), FinetuneLayers(steps=3, images=4)
    with clock.stage("edit") as metered:
        planner = editor.prepare(weights(), net("norm"), SPLIT, metered)
    with clock.stage("search"):
        planner(5)
        planner(9)
        planner(0)  # nothing is chosen, nothing trained
    cost = clock.cost()
    assert (cost.edit.passes, cost.search.passes) == (2 * editor.passes(), 0)
    assert editor.passes() == 3 * 3 * 4
    assert clock.cost() == cost or clock.cost().edit.passes == cost.edit.passes  # asked twice


def test_seed_decides():
    def digest(seed):
        planner = FinetuneLayers(steps=2, images=4)
        return planner(weights(), 5, net("norm"), SPLIT, Runtime(seed=seed)).digest()

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)


def test_the_report_and_the_card_tell_of_the_training():
    plan = FinetuneLayers(steps=2, images=8)(weights(), 5, net("norm"), SPLIT)
    (line,) = remarks(plan)
    assert "1 parameters (144 weights) were trained for 2 steps of 8 images" in line
    assert "drawn from 16 retained training images" in line
    edit = {
        "editor": "finetune-layers", "editor_options": {"steps": 2}, "scorer": "s", "strength": 5,
        "changed_weights": 144, "changed_units": 0, "changed_fraction": 0.1, "digest": "d",
    }  # fmt: skip
    part = {"n": 1, "accuracy": 1.0, "macro_f1": 1.0, "ece": 0.0}
    report = {
        "model": {"spec": "m", "digest": "d"}, "target": "class:1", "edit": edit, "seed": 0,
        "data": {"spec": "x"}, "versions": {}, "verdict": "v", "explanation": "",
        "before": {"all": part, "per_class": []}, "after": {"all": part, "per_class": []},
    }  # fmt: skip
    assert "Then 2 steps of training on retained images followed" in model_card(report)
    edit["editor_options"] = {}
    assert "No training followed." in model_card(report)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FinetuneLayers(steps=0), "steps=0 is not allowed: give a whole number >= 1"),
        (lambda: FinetuneLayers(images=1.5), "images=1.5 is not allowed"),
        (lambda: FinetuneLayers(rate=0), "rate=0 is not allowed: give a number above 0"),
        (lambda: FinetuneLayers(rate=float("nan")), "rate=nan is not allowed"),
        (lambda: FinetuneLayers()(weights(), 1), "finetune-layers needs the model .*: no model"),
        (lambda: FinetuneLayers()(weights(), 1, net("norm")), "no split came"),
        (
            lambda: FinetuneLayers()(
                weights(), 1, net("norm"), SPLIT.where(SPLIT.labels == 1)
            ),
            "the train split has only images of class:1, so none to retrain on",
        ),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_by_name(make, message):
    with pytest.raises(ModelEditError, match=message):
        make()


def test_a_network_that_does_not_stay_finite_is_refused():
    class Steep(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 3, 1), nn.Linear(3, 3)

        def forward(self, x):
            return self.head((self.conv(x) ** 4).mean((2, 3)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Steep()
    scores = Scores("weight", {"conv.weight": torch.arange(3.0).view(3, 1, 1, 1)})
    with pytest.raises(ModelEditError, match=r"retraining diverged.*lower rate"):
        FinetuneLayers(rate=1e6)(scores, 1, model, SPLIT)
