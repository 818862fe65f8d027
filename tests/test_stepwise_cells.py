"""Stepwise cells: its selection by hand and by brute force, its effects, its order, its levels."""

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
from modeledit.scorers._covering import cheapest
from modeledit.scorers.stepwise_cells import StepwiseCells, members
from modeledit.surgery import apply
from modeledit.targets import Accuracy, ForgetClass, GroupRecall
from modeledit.toys import NETS, fingerprint, images, net

WORST, MEAN = GroupRecall("worst"), GroupRecall()
ALL = {"share": 1.0, "fraction": 1.0}


def choose(effects, wanted, costs=None, most=99, pull=None, unit=0.1):
    effects, wanted = torch.tensor(effects), torch.tensor(wanted)
    costs = torch.ones(effects.shape[1]) if costs is None else torch.tensor(costs)
    pull = torch.zeros(len(effects)) if pull is None else torch.tensor(pull)
    return cheapest(effects, costs, wanted, pull, unit, most).tolist()


def test_the_best_yield_for_its_cost_comes_first():
    assert choose([[-0.1, -0.3, -0.2]], [-0.25]) == [1]
    assert choose([[-0.1, -0.3, -0.2]], [-0.25], [0.1, 1.0, 1.0]) == [0, 1]
    assert choose([[-0.1, -0.3, -0.2]], [-0.4]) == [1, 2]


def test_what_one_loss_gains_the_other_pays_in_part():
    # The largest gains of the first loss, a tenth of the fall, cost 0.8 of the second one's rise.
    effects = torch.tensor([[-0.005] * 10 + [-0.003] * 20, [0.004] * 10 + [0.0] * 20])
    wanted = torch.tensor([-0.0499, 0.005])
    found = choose(effects.tolist(), wanted.tolist(), unit=0.05)
    above = effects[:, found].sum(1) - wanted
    assert effects[0, found[-1]] == effects[0, -1]
    assert above[0] <= 0
    assert 0 < above[1] < 0.4 * 0.05  # in part of a unit, which the next round takes back ...
    assert effects[1, :10].sum() - wanted[1] > 0.6 * 0.05  # ... and not what all of them cost
    # Where the rise is allowed they come first.
    assert sorted(choose(effects.tolist(), [-0.0499, 9.0], unit=0.05)) == list(range(10))


def test_losses_that_lag_behind_are_served_first():
    # One weight lowers both, twice as much the first; then one for each.
    effects = [[-0.2, -0.1, 0.0], [-0.1, 0.0, -0.1]]
    assert choose(effects, [-0.2, -0.2]) == [0, 2]


def test_prices_by_hand():
    # Half a unit above the other: its price is exp(1.5) = 4.48 times that of the other, which
    # a weight that takes 4 times as much from the other does not make up for, one of 5 times does.
    assert choose([[-0.001, 0.0], [0.0, -0.004]], [-0.05, 0.0], most=1) == [0]
    assert choose([[-0.001, 0.0], [0.0, -0.005]], [-0.05, 0.0], most=1) == [1]
    assert choose([[-0.001, 0.0], [0.0, -0.005]], [-0.05, 0.0], most=1, unit=0.05) == [0]


def test_a_pull_decides_between_weights_that_serve_the_worst_alike():
    effects = [[-0.1, -0.1], [0.0, 0.0], [0.01, -0.01]]
    assert choose(effects, [-0.05, 9.0, 9.0], pull=[0.1, 0.1, 0.1]) == [1]
    # It alone is no reason to take a weight once all are where they belong.
    assert choose(effects, [0.0, 0.0, 0.0], pull=[0.1, 0.1, 0.1]) == []


def test_nothing_is_taken_where_nothing_is_wanted_or_helps():
    assert choose([[-0.5, -0.3]], [0.0]) == []
    assert choose([[0.5, 0.3]], [-0.1]) == []


def test_it_ends_at_most():
    assert choose([[-0.1, -0.1, -0.1]], [-1.0], most=2) == [0, 1]
    assert choose([[-0.1, -0.1, -0.1]], [-1.0]) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(10))
def test_many_small_effects_reach_what_is_wanted_within_the_limits(seed):
    """As a round sees them: a common direction that trades the losses, and noise around it."""
    generator = np.random.default_rng(seed)
    trade = generator.normal(size=5000) * np.array([[-1.0], [1.0], [0.6]])
    effects = (1e-3 * (trade + 0.5 * generator.normal(size=(3, 5000)))).astype(np.float32)
    wanted = [-0.05, 0.005, 0.005]
    found = choose(effects.tolist(), wanted, most=5000, unit=0.01)
    assert (effects[:, found].sum(1) <= wanted).all()
    lowest = np.sort(effects[0])[: len(found) // 8].sum()
    assert lowest > wanted[0]  # at most eight times as many as without the limits


def grouped(count=24, groups="abc"):
    split = Split.of(images(count), "train")
    split.groups = np.array([groups[(i // 3) % len(groups)] for i in range(count)])
    return split


def score(model, target=WORST, split=None, seed=0, **options):
    return StepwiseCells(**{**ALL, **options})(
        model, split or grouped(), target, Runtime(batch_size=5, seed=seed)
    )


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("width", [1.0, 0.3])
def test_raw_is_what_zeroing_takes_from_the_cells_to_first_order(name, width):
    scores = score(net(name), rounds=1, width=width)
    model = copy.deepcopy(net(name)).double().eval()
    split, weights = grouped(), list(scores.raw)
    losses = []
    for group in "abc":
        rows = [images(24)[i] for i in np.flatnonzero(split.groups == group)]
        wrong = []
        for image, label in rows:
            logits = model(image[None].double())[0]
            rest = torch.cat([logits[:label], logits[label + 1 :]]).logsumexp(0)
            wrong.append(torch.sigmoid((rest - logits[label]) / width))
        losses.append(torch.stack(wrong).mean())
    parameters = [model.get_parameter(name) for name in weights]
    gradients = torch.autograd.grad(torch.stack(losses).mean(), parameters)
    for weight, p, g in zip(weights, parameters, gradients, strict=True):
        want = (p * g).detach().float()
        torch.testing.assert_close(scores.raw[weight], want, rtol=2e-3, atol=1e-6)
    assert scores.header["cells"] == pytest.approx(
        {g: x.item() for g, x in zip("abc", losses, strict=True)}, rel=1e-4
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
    assert int(sizes.max()) <= math.ceil(0.2 * math.sqrt(scored))


def test_members_by_hand():
    split = grouped(12)
    assert [(n, k) for n, _, k in members(split, WORST)] == [(g, "levelled") for g in "abc"]
    found = members(split, ForgetClass((0, 2)))
    assert [(n, k) for n, _, k in found] == [("0", "forgotten"), ("1", "kept"), ("2", "forgotten")]
    assert [k for _, _, k in members(split, Accuracy())] == ["forgotten"] * 3
    assert sum(rows.astype(int) for _, rows, _ in found).tolist() == [1] * 12


@pytest.mark.parametrize("target", [WORST, MEAN], ids=str)
def test_groups_are_needed(target):
    with pytest.raises(DataError, match=f"^{target} compares groups.*--group-column$"):
        score(net("linear"), target, Split.of(images()))


def test_one_group_is_refused():
    with pytest.raises(ModelEditError, match="all images are of group 'a'"):
        score(net("linear"), WORST, grouped(groups="a"))


def test_the_seed_decides():
    given = {"rounds": 4, "inputs": 70, "fraction": 0.5}
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
        *[(o, v) for o in ("slack", "width", "step") for v in (0, -1, float("nan"), "1")],
        *[(o, v) for o in ("share", "fraction") for v in (0, 1.5, "1")],
        ("cache_mb", -1),
    ],
)
def test_options_are_refused_by_name(option, value):
    with pytest.raises(ModelEditError, match=f"^{option}="):
        StepwiseCells(**{option: value})


def test_a_cache_that_holds_no_group_is_named():
    with pytest.raises(ModelEditError, match="cache_mb=0 does not hold what 50 images of each"):
        score(net("norm"), cache_mb=0)
