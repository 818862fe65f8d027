"""Stepwise cells: draws and prices by hand, effects by a slow reference, its order and anchor."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from modeledit.data import Split
from modeledit.editors.zero import Zero
from modeledit.errors import DataError, ModelEditError
from modeledit.runtime import Runtime
from modeledit.scorers._cells import parts
from modeledit.scorers.magnitude import Magnitude
from modeledit.scorers.stepwise_cells import StepwiseCells, drawn, kept, relaxed, shown
from modeledit.surgery import apply
from modeledit.targets import Accuracy, ForgetClass, GroupRecall
from modeledit.toys import NETS, fingerprint, images, net

WORST, MEAN = GroupRecall("worst"), GroupRecall()
ALL = {"share": 1.0}


@pytest.mark.parametrize("seed", range(5))
def test_each_cell_is_drawn_as_often_as_its_weight_says(seed):
    generator = torch.Generator().manual_seed(seed)
    assert drawn(torch.tensor([0.5, 0.25, 0.0, 0.25]), 4, generator) == [0, 0, 1, 3]
    found = drawn(torch.tensor([0.9, 0.1]), 4, generator)
    assert found.count(0) in (3, 4)  # 3.6 on average
    assert drawn(torch.tensor([1.0]), 3, generator) == [0, 0, 0]


def test_draws_are_unbiased():
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor([0.62, 0.3, 0.08])
    found = torch.tensor([drawn(weights, 4, generator) for _ in range(2000)])
    shares = torch.bincount(found.flatten()) / found.numel()
    torch.testing.assert_close(shares, weights, atol=0.01, rtol=0)


def test_whose_answers_are_kept_by_hand():
    same, third = torch.zeros(3), math.log(3) / 100  # a loss that grew by it counts three times
    level = ["levelled"] * 3
    assert kept(torch.tensor([0.75, 0.25, 0.0]), same, level).tolist() == [0.125, 0.375, 0.5]
    hurt = kept(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([9.0, third, 0.0]), level)
    assert hurt.tolist() == pytest.approx([0, 0.75, 0.25])
    some = kept(torch.tensor([1.0, 0.0, 0.0]), same, ["forgotten", "kept", "kept"])
    assert some.tolist() == [0, 0.5, 0.5]
    assert kept(torch.tensor([0.5, 0.5]), same[:2], ["forgotten"] * 2).tolist() == [0, 0]


def test_the_price_of_changed_answers_falls_to_a_sixteenth():
    assert relaxed(40, -9, 300) == relaxed(40, 0, 300) == 40
    assert relaxed(40, 150, 300) == pytest.approx(10)
    assert relaxed(40, 300, 300) == pytest.approx(2.5)


def test_the_search_is_shown_forty_states_and_the_last():
    assert [n for n in range(1, 402) if shown(n, 401)] == [*range(11, 402, 11), 401]
    assert [n for n in range(1, 8) if shown(n, 7)] == [1, 2, 3, 4, 5, 6, 7]


def grouped(count=24, groups="abc"):
    split = Split.of(images(count), "train")
    split.groups = np.array([groups[(i // 3) % len(groups)] for i in range(count)])
    return split


def score(model, target=WORST, split=None, seed=0, **options):
    return StepwiseCells(**{**ALL, **options})(
        model, split or grouped(), target, Runtime(batch_size=5, seed=seed)
    )


def errors(model, rows, width, sign=-1):
    """(n,) smooth errors of (image, label) pairs, one by one, in double precision."""
    found = []
    for image, label in rows:
        logits = model(image[None].double())[0]
        rest = torch.cat([logits[:label], logits[label + 1 :]]).logsumexp(0)
        found.append(torch.sigmoid(sign * (logits[label] - rest) / width))
    return torch.stack(found)


def priced(model, target, width):
    """The sum of the priced losses, and the losses by cell."""
    split = grouped()
    if target == ForgetClass((1,)):
        cells = {c: [r for r in images(24) if r[1] == c] for c in (0, 1, 2)}
        losses = {c: errors(model, r, width, 1 if c == 1 else -1) for c, r in cells.items()}
        return losses[1].mean(), {f"class:{c}": x.mean() for c, x in losses.items()}
    cells = {g: [images(24)[i] for i in np.flatnonzero(split.groups == g)] for g in "abc"}
    losses = torch.stack([errors(model, rows, width).mean() for rows in cells.values()])
    prices = torch.softmax(losses.detach() / 0.06, 0) if target == WORST else torch.ones(3) / 3
    return prices @ losses.to(prices), dict(zip(cells, losses, strict=True))


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("target", [WORST, MEAN, ForgetClass((1,))], ids=str)
def test_raw_is_what_zeroing_takes_from_the_priced_losses_to_first_order(name, target):
    width = 0.7
    scores = score(net(name), target, rounds=1, width=width)
    model = copy.deepcopy(net(name)).double().eval()
    loss, cells = priced(model, target, width)
    parameters = [model.get_parameter(name) for name in scores.raw]
    gradients = torch.autograd.grad(loss, parameters)
    for weight, p, g in zip(scores.raw, parameters, gradients, strict=True):
        want = (p * g).detach().float()
        torch.testing.assert_close(scores.raw[weight], want, rtol=5e-3, atol=2e-6)
    assert scores.header["cells"] == pytest.approx(
        {c: x.item() for c, x in cells.items()}, rel=1e-4
    )


class Biased(nn.Module):
    """Pixel 0 tells the class, but for pixel 1, a mark of the group, the second weight says 0."""

    def __init__(self):
        super().__init__()
        self.seen = nn.Linear(4, 3, bias=False)
        self.head = nn.Linear(3, 2, bias=False)
        with torch.no_grad():
            self.seen.weight.copy_(torch.tensor([[2.0, 0, 0, 0], [0, 1.5, 0, 0], [0, 0, 1, 1]]))
            self.head.weight.copy_(torch.tensor([[-1.0, 1.0, 0.1], [1.0, -1.0, 0.1]]))

    def forward(self, x):
        return self.head(self.seen(x.flatten(1)))


def biased():
    generator = torch.Generator().manual_seed(0)
    marked, label = torch.arange(80) % 2, torch.arange(80) // 2 % 2
    pixels = torch.stack([2 * label - 1.0, marked, *torch.zeros(2, 80)], 1)
    pixels = pixels + 0.4 * torch.randn(80, 4, generator=generator)
    split = Split.of(TensorDataset(pixels.reshape(80, 1, 2, 2), label), "train")
    split.groups = np.array(
        [f"{'marked' if m else 'plain'}-{c}" for m, c in zip(marked, label, strict=True)]
    )
    return split, pixels.reshape(80, 1, 2, 2), label


def recalls(model, split, pixels, label):
    right = (model(pixels).argmax(1) == label).numpy()
    return {g: right[split.groups == g].mean() for g in np.unique(split.groups)}


def test_it_finds_the_weight_that_wrongs_a_group_and_harms_nobody():
    split, pixels, label = biased()
    model = Biased()
    scores = score(model, split=split, rounds=3)
    assert scores.values["seen.weight"].argmax() == 1 * 4 + 1
    before = recalls(model, split, pixels, label)
    after = recalls(apply(model, Zero()(scores, 1)), split, pixels, label)
    assert min(before, key=before.get) == "marked-1"
    assert after["marked-1"] > before["marked-1"] + 0.1
    assert min(after.values()) > before["marked-1"] + 0.1
    assert all(after[g] >= before[g] - 0.051 for g in after)


@pytest.mark.parametrize("name", NETS)
def test_the_anchor_keeps_the_answers_of_the_others(name):
    pixels = torch.stack([image for image, _ in images(24)])
    before = net(name).eval()(pixels).softmax(1)
    moved = []
    for anchor in (0.01, 1e5):
        scores = score(net(name), rounds=20, step=0.05, width=0.3, anchor=anchor)
        plan = Zero()(scores, scores.header["steps"][-1])
        moved.append((apply(net(name), plan).eval()(pixels).softmax(1) - before).abs().mean())
    assert moved[1] < 0.4 * moved[0]


@pytest.mark.parametrize("target", [WORST, MEAN, ForgetClass((1,))], ids=str)
@pytest.mark.parametrize("name", NETS)
def test_values_are_the_order_and_steps_are_cumulative(name, target):
    scores = score(net(name), target, rounds=6)
    steps = scores.header["steps"]
    assert scores.header["allocation"] == "global"
    assert 0 < len(steps) <= 6
    assert steps == sorted(set(steps))
    values = torch.cat([tensor.flatten() for tensor in scores.values.values()])
    ranked = values[values > 0].sort(descending=True).values
    assert ranked.tolist() == list(range(steps[-1], 0, -1))


def test_a_round_zeroes_at_most_step():
    scored = sum(t.numel() for t in score(net("norm"), rounds=1).values.values())
    sizes = torch.tensor([0, *score(net("norm"), rounds=8, step=0.2).header["steps"]]).diff()
    assert int(sizes.max()) == math.ceil(0.2 * math.sqrt(scored))


def test_parts_by_hand():
    split = grouped(12)
    levelled = [(part.name, part.kind) for part in parts(split, WORST)]
    assert levelled == [(g, "levelled") for g in "abc"]
    found = parts(split, ForgetClass((0, 2)))
    assert [part.name for part in found] == ["class:0", "class:1", "class:2"]
    assert [part.kind for part in found] == ["forgotten", "kept", "forgotten"]
    assert [part.kind for part in parts(split, Accuracy())] == ["forgotten"] * 3
    assert sum(part.rows.astype(int) for part in found).tolist() == [1] * 12


@pytest.mark.parametrize("target", [WORST, MEAN], ids=str)
def test_groups_are_needed(target):
    with pytest.raises(DataError, match=f"^target {target} needs groups.*--group-column"):
        score(net("linear"), target, Split.of(images()))


def test_one_group_is_refused():
    with pytest.raises(ModelEditError, match="all images are of group 'a'"):
        score(net("linear"), WORST, grouped(groups="a"))


def test_the_seed_decides():
    given = {"rounds": 4, "inputs": 70}
    first, again, other = (
        score(net("norm"), split=grouped(600), seed=seed, **given) for seed in (1, 1, 2)
    )
    assert fingerprint(first) == fingerprint(again) != fingerprint(other)


def test_the_estimate_bounds_what_it_took():
    runtime = Runtime()
    scorer = StepwiseCells(rounds=4, **ALL)
    scores = scorer(net("norm"), grouped(90), WORST, runtime)
    assert 90 < runtime.meter.images <= scorer.passes(90, 0, 5)
    assert scores.header["passes"] == round(runtime.meter.images)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[(o, v) for o in ("inputs", "rounds") for v in (0, 2.5, True)],
        *[(o, v) for o in ("anchor", "width", "step") for v in (0, -1, float("nan"), "1")],
        *[("share", v) for v in (0, 1.5, "1")],
        ("cache_mb", -1),
    ],
)
def test_options_are_refused_by_name(option, value):
    with pytest.raises(ModelEditError, match=f"^{option}="):
        StepwiseCells(**{option: value})


def test_a_cache_that_holds_no_group_is_named():
    with pytest.raises(ModelEditError, match="cache_mb=0 does not hold what 16 images of each"):
        score(net("norm"), cache_mb=0)


def test_scorers_that_do_not_compare_groups_name_those_that_do():
    split = Split.of(images(6), "train")
    with pytest.raises(ModelEditError, match=r"magnitude cannot .*gate-ig or .*stepwise-cells or"):
        Magnitude()(net("linear"), split, WORST)
