"""Attacks: the promises all of them make, and bad input."""

import copy
import inspect

import pytest
import torch
from attack_cases import (
    CLASSES,
    Linear,
    Opaque,
    norms,
    pair,
    pictures,
    prepared,
    reached,
    trained,
    wrapped,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modeledit.attacks import PixelModel, draw_targets
from modeledit.attacks.apgd import Apgd
from modeledit.attacks.fgsm import Fgsm
from modeledit.attacks.pgd import Pgd
from modeledit.attacks.square import Square
from modeledit.errors import ModelEditError, ModelError
from modeledit.runtime import Meter
from modeledit.toys import everything

EVERY = {
    "fgsm": Fgsm,
    "pgd": lambda **o: Pgd(steps=4, restarts=2, **o),
    "apgd": lambda **o: Apgd(steps=5, restarts=2, **o),
    "square": lambda **o: Square(queries=30, **o),
}
every = pytest.mark.parametrize("name", sorted(EVERY))


@every
@norms
@settings(max_examples=5, deadline=None)
@given(st.floats(0, 1), st.booleans(), st.integers(0, 99))
def test_never_outside_the_ball_nor_the_range(name, norm, size, targeted, seed):
    network, pixels, labels, targets = prepared(6, seed)
    pixels = pixels.round(decimals=1)  # some pixels at the ends of the range
    eps = size**3 * (1 if norm == "linf" else 5)
    attack = EVERY[name](eps=eps, norm=norm, targeted=targeted)
    changed = attack(network, pixels, labels, targets=targets if targeted else None, seed=seed)
    assert changed.shape == pixels.shape
    assert 0 <= changed.min() <= changed.max() <= 1
    change = (changed - pixels).flatten(1)
    length = change.abs().amax(1) if norm == "linf" else change.norm(dim=1)
    assert (length <= eps * (1 + 1e-5) + 1e-6).all()


@every
def test_passes_are_not_more_than_was_said(name):
    network, pixels, labels, _ = prepared(6, 1)
    attack, meter = EVERY[name](eps=1e-6), Meter()
    network.meter = meter
    attack(network, pixels, labels)
    assert attack.passes() / 2 <= meter.images / len(pixels) <= attack.passes() + 1


@every
@norms
def test_eps_0_gives_the_same_images(name, norm):
    network, pixels, labels, _ = prepared()
    changed = EVERY[name](eps=0.0, norm=norm)(network, pixels, labels)
    assert torch.equal(changed, pixels)
    assert changed is not pixels


@every
@norms
def test_the_tiniest_eps_does_no_harm(name, norm):
    network, pixels, labels, _ = prepared(4)
    changed = EVERY[name](eps=1e-30, norm=norm)(network, pixels, labels)
    torch.testing.assert_close(changed, pixels, rtol=0, atol=1e-7)


@every
@norms
def test_same_seed_same_bytes_in_any_batch(name, norm):
    network, pixels, labels, _ = prepared(6)
    attack = EVERY[name](eps=0.05 if norm == "linf" else 0.5, norm=norm)
    first = attack(network, pixels, labels, seed=3)
    assert torch.equal(first, attack(network, pixels, labels, seed=3))
    rows = torch.tensor([4, 1])
    alone = attack(network, pixels[rows], labels[rows], indices=rows, seed=3)
    # A convolution rounds differently in another batch, and a sign may turn on that.
    assert (alone - first[rows]).abs().gt(1e-6).float().mean() < 0.05
    if name != "fgsm":
        assert not torch.equal(first, attack(network, pixels, labels, seed=4))


@every
def test_nothing_of_the_caller_is_touched(name):
    model = copy.deepcopy(trained())
    next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
    pixels, labels = pictures(4)
    before, clean = everything(model), pixels.clone()
    EVERY[name]()(wrapped(model), pixels, labels)
    assert everything(model) == before
    assert torch.equal(pixels, clean)
    with torch.inference_mode():  # whatever the caller is in the middle of
        EVERY[name]()(wrapped(model), pixels, labels)
    assert everything(model) == before


def test_nothing_is_touched_when_the_model_breaks():
    model = nn.Sequential(nn.Dropout(), Opaque(copy.deepcopy(trained()))).train()
    before = everything(model)
    pixels, labels = pictures(4)
    with pytest.raises(AssertionError, match="a gradient was taken"):
        Pgd()(wrapped(model), pixels, labels)
    assert everything(model) == before


@norms
@pytest.mark.parametrize("targeted", [False, True])
def test_square_never_uses_gradients(norm, targeted):
    network = wrapped(Opaque(trained()))
    _, pixels, labels, targets = prepared(8)
    goal = {"targets": targets if targeted else None}
    attack = Square(eps=0.2 if norm == "linf" else 3.0, norm=norm, targeted=targeted, queries=60)
    assert reached(network, attack(network, pixels, labels, **goal), labels, **goal).any()


@every
def test_the_model_may_change_its_input_in_place(name):
    class InPlace(nn.Module):
        def forward(self, x):
            return x.mul_(3).flatten(1)[:, :CLASSES]

    pixels, labels = pictures(4)
    plain = PixelModel(InPlace(), (0.0,) * 3, (1.0,) * 3)
    changed = EVERY[name](eps=0.1)(plain, pixels, labels)
    assert torch.equal(pixels, pictures(4)[0])
    assert (changed != pixels).any()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pgd(eps=8.0), r"beyond the pixel range.*at most 1"),
        (lambda: Pgd(eps=-0.1), "finite number >= 0"),
        (lambda: Pgd(eps=float("nan")), "finite number >= 0"),
        (lambda: Pgd(norm="l1"), "one of linf, l2"),
        (lambda: Pgd(targeted="yes"), "True or False"),
        (lambda: Pgd(steps=0), "whole number >= 1"),
        (lambda: Pgd(step=0.0), "above 0"),
        (lambda: Pgd(restarts=2, random_start=False), "set random_start"),
        (lambda: Apgd(loss="ce"), "cross-entropy, dlr"),
        (lambda: Square(queries=0), "whole number >= 1"),
        (lambda: Square(p=0.0), "share above 0"),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ModelEditError, match=message):
        make()


def test_bad_input():
    network, pixels, labels, targets = prepared(4)

    def refused(message, attack=None, pixels=pixels, labels=labels, **given_):
        with pytest.raises(ModelEditError, match=message):
            (attack or Fgsm())(network, pixels, labels, **given_)

    refused("not within 0..1", pixels=pixels - 0.5)
    refused("not within 0..1", pixels=pixels * torch.nan)
    refused("not within 0..1", pixels=255 * pixels)
    refused(r"give \(B, C, H, W\)", pixels=pixels[0])
    refused("at most 13.8", Fgsm(eps=14.0, norm="l2"))
    refused("needs a target", Fgsm(targeted=True))
    refused("set targeted", targets=targets)
    same = torch.stack([targets[0], labels[1], targets[2], targets[3]])
    refused("target of image 1 is its own label, 1", Fgsm(targeted=True), targets=same)
    refused("label 9 is out of range: the model has 4", labels=labels + 9 - labels)
    refused("target -1 is out of range", Fgsm(targeted=True), targets=targets * 0 - 1)
    refused("give one each", labels=labels[:2])
    refused("1 channels, mean and std of 3", pixels=pixels[:, :1])
    binary = PixelModel(Linear([1.0, 1.0], 0.0), (0.5,), (0.25,))
    with pytest.raises(ModelEditError, match="needs 3 classes here, the model has 2"):
        Apgd(loss="dlr")(binary, pair(0.1, 0.2), torch.tensor([0]))
    with pytest.raises(ModelEditError, match="no target but the label"):
        draw_targets(labels, 1, labels)
    with pytest.raises(ModelError, match="stand for pixels from"):
        network.pixels(9 * pixels)
    with pytest.raises(ModelError, match="one of each per channel"):
        PixelModel(trained(), (0.5,), (0.1, 0.1))


def test_inputs_and_pixels_are_each_others_inverse():
    network, pixels, _, _ = prepared(4)
    torch.testing.assert_close(network.pixels(network.inputs(pixels)), pixels, rtol=0, atol=1e-6)


def test_targets_are_any_other_class_and_depend_on_the_index_alone():
    labels, indices = torch.arange(400) % CLASSES, torch.arange(400)
    targets = draw_targets(labels, CLASSES, indices)
    assert (targets != labels).all()
    ahead = ((targets - labels) % CLASSES).bincount(minlength=CLASSES)
    assert ahead[0] == 0
    assert ahead[1:].min() > 90
    assert torch.equal(draw_targets(labels[5:9], CLASSES, indices[5:9]), targets[5:9])
    assert not torch.equal(draw_targets(labels, CLASSES, indices, seed=1), targets)


@every
def test_every_attack_has_its_own_documentation(name):
    module = inspect.getmodule(type(EVERY[name]()))
    assert module.__doc__
    assert EVERY[name]().name == name
