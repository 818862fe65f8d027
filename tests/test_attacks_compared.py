"""Attacks against each other: what more work, another loss or another scale changes."""

import copy

import pytest
import torch
from attack_cases import (
    norms,
    pictures,
    prepared,
    reached,
    trained,
    wrapped,
)
from torch import nn

from modeledit.attacks import Goal, PixelModel
from modeledit.attacks.apgd import Apgd
from modeledit.attacks.fgsm import Fgsm
from modeledit.attacks.pgd import Pgd
from modeledit.attacks.square import Square
from modeledit.runtime import Meter


@norms
@pytest.mark.parametrize("targeted", [False, True])
def test_more_work_gets_further(norm, targeted):
    network, pixels, labels, targets = prepared(80)
    eps = 0.07 if norm == "linf" else 0.7
    options = {"eps": eps, "norm": norm, "targeted": targeted}
    goal = Goal(labels, targets if targeted else None)
    steps = {"steps": 12, "random_start": False}

    def success(attack):
        changed = attack(network, pixels, labels, targets=goal.targets)
        logits = network.logits(changed)
        return int(goal.reached(logits).sum()), goal.cross_entropy(logits)

    one, _ = success(Fgsm(**options))
    pgd, pgd_loss = success(Pgd(**steps, **options))
    apgd, apgd_loss = success(Apgd(**steps, **options))
    square, _ = success(Square(queries=200, **options))
    assert 0 < one <= pgd <= apgd < 80
    assert apgd_loss.mean() >= pgd_loss.mean()
    assert (apgd_loss >= pgd_loss - 0.05).float().mean() > 0.9
    assert square <= apgd
    dlr, _ = success(Apgd(**steps, **options, loss="dlr"))
    assert dlr > 0.8 * apgd
    assert success(Pgd(steps=12, restarts=3, **options))[0] >= success(Pgd(steps=12, **options))[0]


def test_later_starts_are_for_images_that_are_not_reached():
    network, pixels, labels, _ = prepared(40)
    once, twice = (
        Pgd(eps=0.06, steps=2, restarts=restarts)(network, pixels, labels) for restarts in (1, 2)
    )
    done = reached(network, once, labels)
    assert 0 < done.sum() < 40
    assert torch.equal(twice[done], once[done])
    assert (twice[~done] != once[~done]).flatten(1).any(1).all()


def test_square_gets_further_with_queries_and_near_the_best():
    network, pixels, labels, _ = prepared(40)
    for norm, eps in (("linf", 0.1), ("l2", 1.2)):
        few, many = (
            reached(network, Square(eps=eps, norm=norm, queries=q)(network, pixels, labels), labels)
            for q in (2, 300)
        )
        white = reached(network, Apgd(eps=eps, norm=norm)(network, pixels, labels), labels)
        assert few.sum() < many.sum() <= white.sum()
        assert many.sum() > 0.5 * white.sum()


def test_dlr_finds_a_slope_where_cross_entropy_has_none():
    sure = nn.Sequential(copy.deepcopy(trained()), nn.Flatten())
    with torch.no_grad():
        sure[0][-1].weight.mul_(1e4)
        sure[0][-1].bias.mul_(1e4)
    network = wrapped(sure)
    pixels, labels = pictures(40)
    right = ~reached(network, pixels, labels)
    assert right.sum() > 20
    options = {"eps": 0.1, "steps": 10, "random_start": False}
    flat = reached(network, Apgd(**options)(network, pixels, labels), labels)
    sloped = reached(network, Apgd(loss="dlr", **options)(network, pixels, labels), labels)
    assert (sloped & right).sum() > (flat & right).sum() + 10


def test_normalisation_does_not_change_what_eps_means():
    # A model on raw pixels, and the same one behind another mean and std.
    raw, plain = trained(), wrapped(trained())

    class Renormalised(nn.Module):
        def forward(self, x):
            return raw.eval()(plain.inputs(x * 0.5 + 0.1))

    mode = raw.training
    pixels, labels = pictures(8)
    other = PixelModel(Renormalised(), (0.1,) * 3, (0.5,) * 3)
    a, b = (Pgd(steps=3)(n, pixels, labels) for n in (plain, other))
    raw.train(mode)
    assert (a - b).abs().gt(1e-5).float().mean() < 0.02
    assert (a - pixels).abs().max() == pytest.approx(8 / 255, abs=1e-6)


def test_passes_are_metered():
    network = wrapped(trained(), meter=(meter := Meter()))
    pixels, labels = pictures(4)
    Pgd(steps=5)(network, pixels, labels)
    assert meter.images == 4 * 5 * 3
    Apgd(steps=5)(network, pixels, labels)
    assert meter.images == 4 * 5 * 3 * 2 + 4  # the last point is looked at
    meter.images = 0
    Square(queries=5, eps=0.0001)(network, pixels, labels)
    assert meter.images <= 4 * 5
