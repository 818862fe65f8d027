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
from modeledit.gate_orders import Fade, _halves, gate_orders
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
    steps = _halves(7, free, 4, torch.Generator().manual_seed(0))
    assert len(steps) == 4
    for first in (0, 2):
        fading = steps[first][1].int() + steps[first + 1][1].int()
        assert torch.equal(fading, free.int().expand(7, 6))
    (one, now), (two, then), (_, late), _ = steps
    assert bool((one[then] == 1).all())  # those that fade later are all there
    assert bool((two[now] == 0).all())
    assert bool((one[:, 2] == 1).all())  # cannot fade
    assert int(((now == late)[:, free]).sum()) == 7  # the middle one of five


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
    assert runtime.meter.images == 3 * 6 * len(SPLIT)
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
