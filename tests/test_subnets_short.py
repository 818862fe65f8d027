"""The ways of sub-networks that do less: rows left out, single channels, coalitions at once."""

from __future__ import annotations

import pytest
import torch
import zoo
from test_subnets import MANY, pair
from torch import nn

from modeledit.subnets.rows import KeptRows


def walk_to_nothing(networks, full, stride):
    order = torch.randperm(len(networks.units), generator=torch.Generator().manual_seed(0))
    alive = torch.ones(len(networks.units), dtype=torch.bool)
    for first in range(0, len(order), stride):
        alive[order[first : first + stride]] = False
        assert torch.equal(networks.logits(alive), full.logits(alive))
    alive[order[: len(order) // 2]] = True
    assert torch.equal(networks.logits(alive), full.logits(alive))


class Wide(nn.Module):
    """Convolutions with enough rows to leave some out, a residual sum and a classifier."""

    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 48, 3, bias=False), nn.BatchNorm2d(48), nn.ReLU())
        self.two = nn.Sequential(nn.Conv2d(48, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU())
        self.deep = nn.Sequential(
            nn.Conv2d(48, 48, 3, padding=1, groups=48), nn.BatchNorm2d(48), nn.MaxPool2d(2)
        )
        self.three = nn.Conv2d(48, 40, 1)
        self.end = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 5))

    def forward(self, images):
        x = self.one(images)
        x = torch.relu(x + self.two(x))
        return self.end(torch.tanh(self.three(self.deep(x))))


@pytest.fixture
def wide():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Wide().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.bias)
                nn.init.normal_(module.running_mean)
    return model


def test_rows_left_out_change_no_bit(wide):
    networks, full = pair(wide, zoo.noise(5, 3, 12, 12))
    walk_to_nothing(networks, full, 7)
    steps = networks._inner._program.steps
    kept = [step.call for step in steps if isinstance(step.call, KeptRows)]
    first, second = kept  # the depthwise one and the one without a norm are whole
    assert first._rows is None  # not run again: units that come alive are copied
    assert 0 < len(second._rows) < 48


def test_coming_alive_costs_no_more_than_dying_where_nothing_before_plays(wide):
    images = zoo.noise(5, 3, 12, 12)
    networks, full = pair(wide, images, layers=["two.0", "three"])
    alive = torch.ones(len(networks.units), dtype=torch.bool)
    alive[5:9] = False
    assert torch.equal(networks.logits(alive), full.logits(alive))
    before, costs = alive.clone(), []
    meter = networks._inner.runtime.meter
    for unit in (6, 7, 6):  # one comes alive twice, in between it dies
        new = alive.clone()
        new[unit] ^= True
        start = meter.images
        assert torch.equal(networks.logits(new, keep=False), full.logits(new))
        costs.append(meter.images - start)
        assert torch.equal(networks.logits(new), full.logits(new))
        alive = new
    assert len(set(costs)) == 1
    assert torch.equal(networks.logits(before), full.logits(before))
    new = before.clone()
    new[-3:] = False  # of a layer that has players before it
    assert torch.equal(networks.logits(new), full.logits(new))
    assert torch.equal(networks.logits(before), full.logits(before))


def test_rows_that_would_change_a_bit_stay(wide, monkeypatch):
    plain = KeptRows.kernel
    monkeypatch.setattr(KeptRows, "kernel", lambda self, x: plain(self, x) * (1 + 2e-7))
    networks, full = pair(wide, zoo.noise(5, 3, 12, 12))
    walk_to_nothing(networks, full, 7)


def deaths(base):
    """(K, n) coalitions, each with one unit less than the base."""
    rows = [base & (torch.arange(len(base)) != i) for i in base.nonzero().flatten()]
    return torch.stack(rows)


def close(found, wanted):
    return float((found - wanted).abs().max()) <= 1e-6 * float(wanted.abs().max())


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_thin_deaths(wide, share):
    images = zoo.noise(5, 3, 12, 12)
    networks, full = pair(wide, images, thin=True)
    assert any(path is not None for path in paths(networks))
    generator = torch.Generator().manual_seed(3)
    base = torch.rand(len(networks.units), generator=generator) < share
    before = networks.logits(base)
    rows = deaths(base)
    wanted = torch.stack([full.logits(row, keep=False) for row in rows])
    assert close(torch.stack([networks.logits(row, keep=False) for row in rows]), wanted)
    assert torch.equal(networks.logits(base), before)
    assert close(networks.many(rows, keep=False), wanted)
    base[:3] = False  # nothing of all that is left behind
    assert torch.equal(networks.logits(base), full.logits(base))


def paths(networks):
    networks.logits(torch.ones(len(networks.units), dtype=torch.bool))
    alive = torch.ones(len(networks.units), dtype=torch.bool)
    alive[0] = False
    networks.logits(alive, keep=False)
    return networks._inner._deaths._paths


@pytest.mark.parametrize("name", MANY)
def test_thin_deaths_of_every_kind_of_network(name):
    networks, full = pair(zoo.build(name), zoo.images(name, 3), thin=True)
    base = torch.ones(len(networks.units), dtype=torch.bool)
    networks.logits(base)
    rows = deaths(base)[::3]
    wanted = torch.stack([full.logits(row, keep=False) for row in rows])
    assert close(torch.stack([networks.logits(row, keep=False) for row in rows]), wanted)
    assert close(networks.many(rows, keep=False), wanted)


@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("limit", [2**30, 200_000])
def test_coalitions_at_once(name, limit):
    networks, full = pair(zoo.build(name), zoo.images(name, 3), limit=limit, stacked=True)
    generator = torch.Generator().manual_seed(1)
    alive = torch.rand(5, len(networks.units), generator=generator) < 0.6
    wanted = torch.stack([full.logits(row) for row in alive])
    assert close(networks.many(alive), wanted)
    networks.logits(alive[0])  # the weights are no longer those of the whole network
    assert close(networks.many(alive), wanted)
    masks = networks._inner._masks
    assert masks.fit == (name not in ("shared", "branches"))  # a part run whole; batch statistics
    assert torch.equal(networks.logits(alive[1]), wanted[1])
