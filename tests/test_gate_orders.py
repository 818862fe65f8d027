"""Gates in random orders: written networks, sums, exact Shapley values, seeds, cost."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch
from torch import nn

from modeledit.data import Split
from modeledit.games import GameSpec, reading
from modeledit.gate_orders import (
    PILOT,
    SHARES,
    Fade,
    Fading,
    _orders,
    _pilot,
    gate_orders,
    pilot_passes,
)
from modeledit.gate_path import Gated
from modeledit.runtime import Runtime
from modeledit.surgery import edited, evaluating, hooked, pins, record_means
from modeledit.targets import Accuracy
from modeledit.toys import everything, images, net
from modeledit.types import EditPlan
from modeledit.units import survey

SPLIT = Split.of(images())
READ = reading(Accuracy(), "margin", SPLIT.labels, None)


def table(model):
    anatomy = survey(model, SPLIT.example())
    layers = tuple(anatomy.layers)
    means = record_means(model, SPLIT, layers, Runtime())
    return anatomy, layers, means, tuple(SPLIT.batches(Runtime(batch_size=9)))


def scored(model, steps, parts=READ.parts, runtime=None, values=None):
    anatomy, layers, means, batches = table(model)
    given = (model, anatomy, layers, values or means, batches, parts)
    with evaluating(model):
        return gate_orders(*given, runtime or Runtime(), steps)


@pytest.mark.parametrize("name", ["norm", "shared", "linear"])
@pytest.mark.parametrize("zero", [False, True])
def test_gates_of_0_and_1_are_the_written_network_of_each_image(name, zero):
    model = net(name).eval()
    anatomy, layers, means, batches = table(model)
    values = "zero" if zero else means
    gated = Gated.of(model, anatomy, layers, values)
    fades = [Fade.of(model, gated, layer) for layer in gated.layers]
    sizes = [anatomy.layers[n].units for n in layers]
    x = batches[0].images
    alive = torch.rand(len(x), sum(sizes), generator=torch.Generator().manual_seed(2)) < 0.6
    each = torch.split(alive.float(), sizes, 1)
    after = [
        (fade.module, lambda output, f=fade, g=gates: f(output, g))
        for fade, gates in zip(fades, each, strict=True)
    ]
    with torch.no_grad(), hooked(after):
        found = model(x)
    for image, row in enumerate(alive):
        parts = dict(zip(layers, row.split(sizes), strict=True))
        dead = {n: (~part).nonzero().flatten() for n, part in parts.items()}
        plan = EditPlan(pins(model, anatomy, dead, values)[0])
        with torch.no_grad(), edited(model, plan):
            want = model(x[image : image + 1])
        torch.testing.assert_close(found[image : image + 1], want, rtol=1e-4, atol=1e-5)


def test_an_order_fades_each_unit_once_and_its_reverse_comes_next():
    free = torch.tensor([True, True, False, True, True, True])
    halves = [(0.0, 0.5), (0.5, 1.0)]
    steps = _orders(7, free, halves, 4, torch.Generator().manual_seed(0))
    assert len(steps) == 4
    for first in (0, 2):
        fading = steps[first][1].int() + steps[first + 1][1].int()
        assert torch.equal(fading, free.int().expand(7, 6))
    (one, now), (two, then), (_, late), _ = steps
    assert bool((one[then] == 1).all())  # those that fade later are all there
    assert bool((two[now] == 0).all())
    assert bool((one[:, 2] == 1).all())  # cannot fade
    assert int(((now == late)[:, free]).sum()) == 7  # the middle one of five


@pytest.mark.parametrize("players", [1, 2, 3])
def test_few_units_fade_once_in_an_order(players):
    free = torch.ones(players, dtype=torch.bool)
    steps = _orders(4, free, [(0.0, 0.5), (0.5, 1.0)], 2, torch.Generator().manual_seed(0))
    assert torch.equal(steps[0][1].int() + steps[1][1].int(), torch.ones(4, players).int())
    ((_, narrow),) = _orders(4, free, [(0.0, 0.05)], 1, torch.Generator().manual_seed(0))
    assert bool((narrow.sum(1) == 1).all())


def test_a_window_fades_the_first_of_an_order():
    free = torch.ones(10, dtype=torch.bool)
    steps = _orders(7, free, [(0.0, 0.2)], 2, torch.Generator().manual_seed(0))
    assert len(steps) == 2
    for gates, fading in steps:
        assert torch.equal(fading.sum(1), torch.full((7,), 2))
        assert bool((gates[~fading] == 1).all())
    assert not bool((steps[0][1] & steps[1][1]).any())  # the reverse begins at the other end


@pytest.mark.parametrize(
    ("lost", "windows"),
    [(2, [(0.0, 0.05)]), (20, [(0.0, 0.2)]), (100, [(0.0, 0.5), (0.5, 1.0)])],
)
def test_where_few_units_end_it_the_window_is_theirs(lost, windows):
    class Steep(nn.Module):
        """The first logit falls from 1 to 0 while the first `lost` of 100 units go."""

        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Conv2d(1, 100, 1), nn.Linear(1, 3)

        def forward(self, x):
            alive = self.body(x).mean((2, 3)).sum(1, keepdim=True)
            return self.head(((alive - 100) / lost + 1).relu())

    model = Steep().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
        model.body.weight.zero_()
        model.head.bias.zero_()
    anatomy = survey(model, SPLIT.example())
    layers, batches = tuple(anatomy.layers), tuple(SPLIT.batches(Runtime(batch_size=9)))
    gated = Gated.of(model, anatomy, layers, "zero")
    fades = [Fade.of(model, gated, layer) for layer in gated.layers]

    def first(logits, _):
        return logits[:, :1].sum(0)

    assert Fading(model, fades, first, Runtime()).windows(batches) == windows


def test_the_pilot_takes_images_at_even_distances():
    batches = [b for _ in range(40) for b in SPLIT.batches(Runtime(batch_size=9))]
    many = sum(len(batch.labels) for batch in batches)
    found = torch.cat([batch.indices for batch in _pilot(batches)])
    every = torch.cat([batch.indices for batch in batches])
    assert torch.equal(found, every[:: many // PILOT])
    assert PILOT <= len(found) < 2 * PILOT


def test_exact_where_units_only_add_up():
    class Straight(nn.Module):
        """Without the activation the logits are affine in the gates."""

        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.body(x).mean((2, 3)))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = Straight().eval()
    with torch.no_grad():
        plain.head.weight[:, 2] = 0.0
    anatomy, layers, means, batches = table(plain)

    def first(logits, _):
        return logits[:, :1].sum(0) / len(SPLIT)

    found = gate_orders(plain, anatomy, layers, means, batches, first, Runtime(), 2)[:, 0]
    want = torch.zeros(4)
    with torch.no_grad():
        for batch in batches:
            away = plain.body(batch.images).mean((2, 3)) - means["body"]
            want += (away * plain.head.weight[0]).sum(0) / len(SPLIT)
    np.testing.assert_allclose(found, want.numpy(), atol=1e-6)
    assert found[2] == 0  # nothing reads it


def test_close_to_exact_shapley_values():
    model = net("norm").eval()
    anatomy, layers, means, batches = table(model)
    game = GameSpec(model, anatomy, layers, means, batches, (READ,)).open()
    n, value = game.players, {}
    for size in range(n + 1):
        for members in combinations(range(n), size):
            alive = torch.zeros(n, dtype=torch.bool)
            alive[list(members)] = True
            value[frozenset(members)] = game.value(alive)[0]
    exact = np.zeros(n)
    for members, worth in value.items():
        for i in set(range(n)) - members:
            weight = 1 / (n * comb(n - 1, len(members)))
            exact[i] += weight * (value[members | {i}] - worth)
    found = scored(model, 40)[:, 0]
    assert np.corrcoef(found, exact)[0, 1] > 0.95
    assert np.linalg.norm(found - exact) < 0.3 * np.linalg.norm(exact)


def test_cost_seed_and_the_callers_model():
    model, runtime = net("norm"), Runtime(seed=3)
    before = everything(model)
    found = scored(model, 6, runtime=runtime)
    pilot = (len(SHARES) + 2) * sum(len(batch.labels) for batch in _pilot(table(net("norm"))[3]))
    assert runtime.meter.images == 3 * 6 * len(SPLIT) + pilot
    assert pilot <= pilot_passes(len(SPLIT))
    assert everything(model) == before
    assert np.array_equal(found, scored(model, 6, runtime=Runtime(seed=3)))
    assert not np.array_equal(found, scored(model, 6, runtime=Runtime(seed=4)))


def test_several_numbers_at_once():
    def both(logits, batch):
        one = READ.parts(logits, batch)
        return torch.cat([one, 2 * one])

    found = scored(net("norm"), 2, both)
    assert found.shape == (8, 2)
    np.testing.assert_allclose(found[:, 1], 2 * found[:, 0], rtol=1e-5)
