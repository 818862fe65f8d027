"""Editors by hand: what a plan holds, and what the edited network does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modeledit.data import Split
from modeledit.editors.dampen import Dampen
from modeledit.editors.mean_ablate import MeanAblate
from modeledit.editors.zero import Zero
from modeledit.errors import ModelEditError
from modeledit.surgery import apply, tap
from modeledit.toys import images, net
from modeledit.types import Scores

WEIGHTS = Scores("weight", {"a": torch.tensor([[4.0, 1.0], [-1.0, 2.0]]), "b": torch.tensor([8.0])})
UNITS = Scores("filter", {"conv1": torch.tensor([0.0, 3.0, 1.0, 2.0]), "conv2": torch.zeros(4)})


class Bare(nn.Module):
    """Two convolutions that nothing pins: no bias, no norm."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, bias=False)
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.conv(x).relu().mean((2, 3)))


def named(plan):
    return {c.tensor: (c.indices.tolist(), c.operand.tolist()) for c in plan.changes}


def test_zero_sets_the_highest_weights():
    assert named(Zero()(WEIGHTS, 0.5)) == {"a": ([0, 3], [0.0, 0.0])}
    assert named(Zero()(WEIGHTS, 1)) == {"a": ([0], [0.0]), "b": ([0], [0.0])}
    assert named(Zero(order="lowest")(WEIGHTS, 0.25)) == {"a": ([2], [0.0])}
    assert named(Zero(allocation="global")(WEIGHTS, 2)) == {"a": ([0], [0.0]), "b": ([0], [0.0])}
    plan = Zero()(WEIGHTS, 0.5)
    assert plan.header["editor"] == "zero"
    assert plan.header["strength"] == 0.5
    assert {change.action for change in plan.changes} == {"set"}


def test_zero_leaves_no_negative_zero():
    model = net("norm")
    scores = Scores("weight", {"conv1.weight": -model.conv1.weight.detach()})
    weight = apply(model, Zero()(scores, 5)).conv1.weight.detach().flatten()
    assert (weight == 0).sum() == 5
    assert not torch.signbit(weight[weight == 0]).any()


def test_zero_silences_units():
    model, split = net("norm").eval(), Split.of(images())
    plan = Zero()(UNITS, 2, model, split)
    assert plan.units == {"conv1": (1, 3)}
    work = apply(model, plan)
    x = torch.stack([split_image for split_image, _ in images()])
    out = work.bn1(work.conv1(x))
    assert (out[:, [1, 3]] == 0).all()
    torch.testing.assert_close(out[:, [0, 2]], model.bn1(model.conv1(x))[:, [0, 2]])


def test_mean_ablate_pins_to_the_mean_of_the_split():
    model, split = net("norm").eval(), Split.of(images())
    plan = MeanAblate()(UNITS, 1, model, split)
    assert plan.units == {"conv1": (1,)}
    x = torch.stack([image for image, _ in images()])
    mean = model.conv1(x).mean((0, 2, 3), keepdim=True).expand(-1, -1, 6, 6)
    want = model.bn1(mean)[0, 1, 0, 0]
    out = apply(model, plan)
    seen = out.bn1(out.conv1(x))[:, 1]
    torch.testing.assert_close(seen, want.expand_as(seen))


def test_mean_ablate_takes_means_over_the_calibration_examples():
    model, split = net("norm").eval(), Split.of(images())
    few = split.sample(4, 0)
    assert 4 == len(few) < len(split)
    assert named(MeanAblate(calibration=4)(UNITS, 1, model, split)) == named(
        MeanAblate()(UNITS, 1, model, few)
    )
    with pytest.raises(ModelEditError, match="calibration"):
        MeanAblate(calibration=0)


def test_mean_ablate_takes_the_constants_that_were_scored():
    model, split = net("norm").eval(), Split.of(images())
    brought = {"conv1": torch.tensor([9.0, 0.3, 9.0, 9.0])}
    scores = Scores("filter", UNITS.values, pins=brought)
    seen = {}
    for name, editor in (("scored", MeanAblate()), ("given", MeanAblate(value=0.7))):
        work = apply(model, editor(scores, 1, model, split))
        seen[name] = work.bn1(work.conv1(split.example()))[0, 1]
    for name, value in (("scored", 0.3), ("given", 0.7)):
        want = model.bn1(torch.full((1, 4, 6, 6), value))[0, 1]
        torch.testing.assert_close(seen[name], want)
    # A layer of which the scores say nothing is recorded.
    other = Scores("filter", {"conv2": torch.tensor([1.0, 0.0, 0.0, 0.0])}, pins=brought)
    plain = Scores("filter", other.values)
    assert named(MeanAblate()(other, 1, model, split)) == named(
        MeanAblate()(plain, 1, model, split)
    )


def test_mean_ablate_at_an_explicit_value():
    model, split = net("shared").eval(), Split.of(images())
    scores = Scores("filter", {"stem": torch.tensor([0.0, 1.0, 0.0, 0.0])})
    edited = apply(model, MeanAblate(value=0.75)(scores, 1, model, split))
    with tap(edited, ["stem"]) as outputs, torch.no_grad():
        edited(images()[0][0][None])
    assert (outputs["stem"][0][:, 1] == 0.75).all()
    assert (outputs["stem"][0][:, 0] != 0.75).any()


def test_units_that_cannot_be_pinned_are_left_out_or_refused():
    model, split = Bare().eval(), Split.of(images())
    scores = Scores("filter", {"conv": torch.tensor([3.0, 1.0, 2.0])})
    plan = MeanAblate()(scores, 2, model, split)
    assert plan.changes == ()
    assert plan.units == {}
    assert plan.left_out == {"conv": (0, 2)}
    with pytest.raises(ModelEditError, match=r"conv:0 has no bias .* not to 0.5: use the zero"):
        MeanAblate(value=0.5)(scores, 2, model, split)
    for editor in (MeanAblate(value=0.0), Zero()):
        assert editor(scores, 2, model, split).units == {"conv": (0, 2)}


def test_dampen_by_hand():
    # Selected 4, 2, 1 of tensor a: the lowest is 1, so the factors are 0.1/4, 0.1/2 and 0.1.
    plan = Dampen()(Scores("weight", {"a": WEIGHTS.values["a"]}), 3)
    assert named(plan)["a"][0] == [0, 1, 3]
    assert named(plan)["a"][1] == pytest.approx([0.025, 0.1, 0.05])
    assert {change.action for change in plan.changes} == {"scale"}
    # Taking all of them names the negative one too, and leaves it alone.
    assert named(Dampen()(Scores("weight", {"a": WEIGHTS.values["a"]}), 1.0)) == named(plan)
    assert Dampen()(Scores("weight", {"a": -torch.ones(3)}), 1.0).changes == ()


def test_dampen_has_one_cutoff_or_one_per_tensor():
    apart = named(Dampen(dampening=1.0)(WEIGHTS, 1))
    assert (apart["a"][1], apart["b"][1]) == ([1.0], [1.0])
    together = named(Dampen(dampening=1.0, allocation="global")(WEIGHTS, 2))
    assert (together["a"][1], together["b"][1]) == ([1.0], [0.5])
    asked = Scores("weight", WEIGHTS.values, header={"allocation": "global"})
    assert named(Dampen(dampening=1.0)(asked, 2)) == together


def test_dampen_is_the_rule_of_ssd():
    generator = torch.Generator().manual_seed(0)
    forget, overall = (torch.rand(50, generator=generator).square() for _ in range(2))
    plan = Dampen(allocation="global")(Scores("weight", {"w": forget / overall}), 20)
    alpha = (forget / overall).sort(descending=True).values[19]
    strength = 0.1 * alpha
    # Theirs: where F_f > alpha F, multiply by min(strength * F / F_f, 1).
    chosen = forget >= alpha * overall
    factor = (strength * overall / forget).clamp_max(1.0)
    indices, operand = named(plan)["w"]
    assert indices == chosen.nonzero().flatten().tolist()
    torch.testing.assert_close(torch.tensor(operand), factor[chosen])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dampen(dampening=-0.1), r"dampening=-0.1 is not allowed: give 0 to 1"),
        (lambda: Dampen(dampening=2), "dampening=2 is not allowed"),
        (lambda: Dampen(dampening="x"), "dampening='x' is not allowed"),
        (lambda: Dampen(order="lowest"), "order='lowest' does not fit dampen"),
        (lambda: MeanAblate(value="mean"), "value='mean' is not allowed"),
        (lambda: MeanAblate(value=float("inf")), "value=inf is not allowed"),
        (lambda: Dampen()(UNITS, 1), "dampen edits by weight, but the scores are per filter"),
        (lambda: MeanAblate()(WEIGHTS, 1), "mean-ablate edits by filter, but the scores are"),
        (lambda: Zero()(UNITS, 1), "zero of units needs the model and a split: no model came"),
        (lambda: MeanAblate()(UNITS, 1, net("norm")), "mean-ablate of units .*: no split came"),
        (lambda: Zero()(WEIGHTS, -1), "strength -1 is negative"),
    ],
)
def test_bad_requests_are_refused_by_name(make, message):
    with pytest.raises(ModelEditError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
