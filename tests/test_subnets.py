"""Sub-networks against written weights and full forward passes, on networks of every kind."""

from __future__ import annotations

import copy

import pytest
import torch
import zoo
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modeledit.data import Batch
from modeledit.errors import ModelEditError, ModelError
from modeledit.runtime import Runtime
from modeledit.subnets import FullNetworks, SubNetworks
from modeledit.surgery import apply, pins, record_means
from modeledit.types import EditPlan
from modeledit.units import survey

MANY = ("test_resnet", "test_efficientnet", "test_vit", "branches", "inplace", "densenet", "shared")


def batches(images, size):
    rows = torch.arange(len(images)).split(size)
    return [Batch(images[r], torch.zeros(len(r), dtype=torch.int64), r) for r in rows]


def pair(model, images, means="recorded", layers=None, **options):
    """Sub-networks and the full passes that they must equal."""
    anatomy = survey(model, images[:1])
    names = list(anatomy.layers) if layers is None else layers
    if means == "recorded":
        means = record_means(model, zoo.Few([images]), list(anatomy.layers), Runtime())
    given = (model, anatomy, names, means, batches(images, 2))
    networks = SubNetworks(*given, Runtime(), **{"thin": False} | options)
    return networks, FullNetworks(*given, Runtime())


def same_along_a_walk(networks, full, steps=8, seed=0):
    """Deaths and revivals, kept or not, and a jump."""
    generator = torch.Generator().manual_seed(seed)
    alive = torch.ones(len(networks.units), dtype=torch.bool)
    assert torch.equal(networks.logits(alive), full.logits(alive))
    for step in range(steps):
        count = len(alive) // 2 if step == 5 else 1 + step % 2
        flipped = torch.randperm(len(alive), generator=generator)[:count]
        new = alive.clone()
        new[flipped] = ~new[flipped] if step > 3 else False
        keep = step % 3 != 1
        assert torch.equal(networks.logits(new, keep=keep), full.logits(new))
        alive = new if keep else alive
        assert torch.equal(networks.logits(alive), full.logits(alive))


@pytest.mark.parametrize("name", MANY)
def test_equal_to_written_weights(name):
    model = zoo.build(name)
    images = zoo.images(name, 3)
    networks, full = pair(model, images)
    assert networks.path == ("blocks" if name == "shared" else "graph")
    assert networks.units == full.units
    assert networks.left_out == full.left_out
    same_along_a_walk(networks, full)


@pytest.mark.parametrize("means", ["zero", "recorded"])
def test_equal_to_an_edited_copy(means):
    model = zoo.build("test_resnet")
    images = zoo.images("test_resnet", 2)
    anatomy = survey(model, images[:1])
    networks, _ = pair(model, images, means)
    values = means
    if means == "recorded":
        values = record_means(model, zoo.Few([images]), list(anatomy.layers), Runtime())
    alive = torch.rand(len(networks.units), generator=torch.Generator().manual_seed(0)) < 0.7
    chosen = {}
    for unit, lives in zip(networks.units, alive.tolist(), strict=True):
        if not lives:
            chosen.setdefault(unit.layer, []).append(unit.index)
    dead = {name: torch.tensor(indices) for name, indices in chosen.items()}
    edited = apply(model, EditPlan(pins(model, anatomy, dead, values)[0]))
    with torch.no_grad():
        assert torch.equal(networks.logits(alive), edited(images))


def test_a_walk_costs_less_than_full_passes():
    model = zoo.build("test_resnet")
    images = zoo.images("test_resnet", 2)
    anatomy = survey(model, images[:1])
    runtime = Runtime()
    networks = SubNetworks(
        model, anatomy, list(anatomy.layers), "zero", batches(images, 2), runtime
    )
    alive = torch.ones(len(networks.units), dtype=torch.bool)
    networks.logits(alive)
    before = runtime.meter.images
    alive[-1] = False  # the last layer: nothing but a sum and the classifier follows
    networks.logits(alive)
    assert 0 < runtime.meter.images - before < 0.05 * len(images)
    alive[0] = False  # the first one: all but the first convolution
    networks.logits(alive)
    assert 0.5 * len(images) < runtime.meter.images - before < 1.05 * len(images)
    before = runtime.meter.images
    networks.logits(alive)
    assert runtime.meter.images == before


@pytest.mark.parametrize("limit", [0, 20_000])
def test_a_small_limit_changes_no_value(limit):
    networks, full = pair(
        zoo.build("test_resnet"), zoo.images("test_resnet", 3), limit=limit, path="graph"
    )
    same_along_a_walk(networks, full)


def test_kept_values_stay_within_the_limit():
    limit = 50_000
    networks, _ = pair(zoo.build("test_resnet"), zoo.images("test_resnet", 3), limit=limit)
    networks.logits(torch.ones(len(networks.units), dtype=torch.bool))
    kept = [v for values in networks._inner._kept.values for v in values[1:]]
    assert 0 < sum(v.nbytes for v in kept if isinstance(v, torch.Tensor)) <= limit


def test_full_path_on_request_and_as_the_last_resort():
    class Undecided(nn.Module):
        """Whose own forward looks at the numbers."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.fc = nn.Linear(4, zoo.CLASSES)

        def forward(self, images):
            x = self.conv(images)
            return self.fc((x if x.sum() > 0 else -x).mean((2, 3)))

    torch.manual_seed(0)
    images = zoo.noise(3, 3, 8, 8)
    networks, full = pair(Undecided(), images)
    assert networks.path == "full"
    same_along_a_walk(networks, full)
    with pytest.raises(ModelEditError, match="cannot be traced"):
        pair(Undecided(), images, path="graph")
    networks, full = pair(zoo.build("vgg"), zoo.images("vgg"), path="full")
    assert networks.path == "full"
    same_along_a_walk(networks, full)


def test_many_in_the_order_asked_for():
    networks, full = pair(zoo.build("branches"), zoo.images("branches", 3))
    alive = torch.rand(6, len(networks.units), generator=torch.Generator().manual_seed(1)) < 0.6
    found = networks.many(alive)
    assert found.shape == (6, 3, zoo.CLASSES)
    assert torch.equal(found, torch.stack([full.logits(row) for row in alive]))


def test_units_that_cannot_take_their_pin_are_no_players():
    networks, _ = pair(zoo.build("densenet"), zoo.images("densenet"))
    assert len(networks.left_out) == 5
    assert not {unit.layer for unit in networks.units} & set(networks.left_out)
    some, full = pair(zoo.build("densenet"), zoo.images("densenet"), "zero")
    assert not some.left_out
    same_along_a_walk(some, full)


def test_the_callers_model_is_untouched():
    model = zoo.build("inplace")
    before = copy.deepcopy(model.state_dict())
    networks, _ = pair(model, zoo.images("inplace", 3))
    networks.logits(torch.zeros(len(networks.units), dtype=torch.bool))
    assert model.features.relu.inplace
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_broken_run_is_repaired():
    networks, full = pair(zoo.build("vgg_bn"), zoo.images("vgg_bn", 3))
    alive = torch.ones(len(networks.units), dtype=torch.bool)
    networks.logits(alive)
    alive[2] = False
    kept = networks._inner._kept
    run, kept.run = kept.run, None
    with pytest.raises(TypeError):
        networks.logits(alive)
    kept.run = run
    alive[:] = True
    alive[0] = False  # the one that was about to die lives
    assert torch.equal(networks.logits(alive), full.logits(alive))


def test_bad_input():
    model = zoo.build("vgg")
    images = zoo.images("vgg")
    networks, _ = pair(model, images)
    for wrong in (torch.ones(5, dtype=torch.bool), torch.ones(len(networks.units))):
        with pytest.raises(ModelEditError, match="alive is"):
            networks.logits(wrong)
    with pytest.raises(ModelError, match="no layer"):
        pair(model, images, layers=["nowhere"])
    with pytest.raises(ModelEditError, match="no unit of no layer"):
        pair(model, images, layers=[])
    with pytest.raises(ModelEditError, match="no images"):
        SubNetworks(model, survey(model, images[:1]), ["features.0"], "zero", [], Runtime())


class Random(nn.Module):
    """A directed acyclic graph of layers, from a list of (kind, source, other source)."""

    def __init__(self, recipe):
        super().__init__()
        self.recipe = recipe
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.layers = nn.ModuleList(self.layer(kind) for kind, _, _ in recipe)
        self.fc = nn.Linear(4, 3)

    @staticmethod
    def layer(kind):
        if kind == "conv":
            return nn.Conv2d(4, 4, 3, padding=1, groups=2)
        if kind == "norm":
            return nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))
        if kind == "cat":
            return nn.Conv2d(8, 4, 1)
        return nn.ReLU(inplace=kind == "relu_")

    def forward(self, images):
        made = [self.stem(images)]
        for (kind, one, two), layer in zip(self.recipe, self.layers, strict=True):
            x, y = made[one % len(made)], made[two % len(made)]
            if kind == "add":
                made.append(layer(x + y))
            elif kind == "iadd":
                x += y
                made.append(x)
            else:
                made.append(layer(torch.cat([x, y], 1) if kind == "cat" else x))
        return self.fc(made[-1].mean((2, 3)))


KINDS = ("conv", "norm", "cat", "relu", "relu_", "add", "iadd")
RECIPES = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(RECIPES)
def test_random_graphs(recipe):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Random(recipe).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.bias)
                nn.init.normal_(module.running_mean)
    networks, full = pair(model, zoo.noise(3, 3, 5, 5))
    assert networks.path == "graph"
    same_along_a_walk(networks, full, steps=7)
