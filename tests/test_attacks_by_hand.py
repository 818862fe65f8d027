"""Attacks by hand, most of them on a linear model."""

import pytest
import torch
from attack_cases import Linear, pair, reached

from modeledit.attacks import Goal, PixelModel
from modeledit.attacks._squares import bump, window_side
from modeledit.attacks.apgd import Apgd, checkpoints
from modeledit.attacks.fgsm import Fgsm
from modeledit.attacks.pgd import Pgd
from modeledit.attacks.square import Square


def linear():
    # Inputs are (pixel - .5) / .25, so the score is 4 (2 a - b) - 2 + b0 with w = (2, -1).
    return PixelModel(Linear([2.0, -1.0], 0.0), (0.5,), (0.25,))


def test_fgsm_on_a_linear_model_by_hand():
    # 4 (2 * .5 - .4) - 2 = .4 > 0: class 1. A step of e costs 4 (2 + 1) e = 12 e, so .4 / 12 turns.
    pixels, label = pair(0.5, 0.4), torch.tensor([1])
    network = linear()
    torch.testing.assert_close(network.logits(pixels), torch.tensor([[0.0, 0.4]]))
    changed = Fgsm(eps=0.03)(network, pixels, label)
    torch.testing.assert_close(changed, pair(0.47, 0.43))
    assert not reached(network, changed, label)
    assert reached(network, Fgsm(eps=0.034)(network, pixels, label), label)
    goal = {"targets": torch.tensor([0])}
    assert torch.equal(Fgsm(eps=0.03, targeted=True)(network, pixels, label, **goal), changed)


def test_fgsm_in_l2_by_hand():
    # The gradient's direction is (-2, 1) / sqrt 5; a step of e costs 4 sqrt 5 e: .4 / 8.944 turns.
    pixels, label, network = pair(0.5, 0.4), torch.tensor([1]), linear()
    changed = Fgsm(eps=0.044, norm="l2")(network, pixels, label)
    torch.testing.assert_close(changed, pair(0.5 - 0.088 / 5**0.5, 0.4 + 0.044 / 5**0.5))
    assert not reached(network, changed, label)
    assert reached(network, Fgsm(eps=0.0453, norm="l2")(network, pixels, label), label)


def test_every_gradient_attack_is_as_good_on_a_linear_model():
    network = linear()
    pixels = torch.rand(60, 1, 1, 2, generator=torch.Generator().manual_seed(2))
    labels = network.logits(pixels).argmax(1)
    # Within the range, clipped by it: the best move of a pixel is to the end that it is pushed to.
    push = torch.where(labels == 1, -1.0, 1.0)[:, None, None, None] * torch.tensor([1.0, -1.0])
    best = (pixels + 0.1 * push).clamp(0, 1)
    exact = reached(network, best, labels)
    assert 0 < exact.sum() < 60
    torch.testing.assert_close(Fgsm(eps=0.1)(network, pixels, labels), best)
    for attack in (Pgd(eps=0.1, steps=10), Apgd(eps=0.1, steps=10), Square(eps=0.1, queries=80)):
        changed = attack(network, pixels, labels)
        assert torch.equal(reached(network, changed, labels), exact), attack.name


def test_pgd_by_hand():
    # Two steps of .02 in a ball of .03: the second one is cut short.
    changed = Pgd(eps=0.03, steps=2, step=0.02, random_start=False)(
        linear(), pair(0.5, 0.99), torch.tensor([0])
    )
    torch.testing.assert_close(changed, pair(0.53, 0.96))


def test_checkpoints_of_the_paper():
    # p: 0, .22, .41, .57, .70, .80, .87, .93, .99
    assert sorted(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


def test_goals_by_hand():
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, 5.0, 1.0, 1.0]])
    labels, targets = torch.tensor([0, 2]), torch.tensor([2, 1])
    away, towards = Goal(labels), Goal(labels, targets)
    assert away.reached(logits).tolist() == [False, True]
    assert towards.reached(logits).tolist() == [False, True]
    assert away.margin(logits).tolist() == [-1.0, 4.0]
    # Eq. 6: -(3 - 2) / (3 - 1) and -(1 - 5) / (5 - 1); eq. 7: -(3 - 2) / (3 - .5), -(1 - 5) / 4.5.
    torch.testing.assert_close(away.dlr(logits), torch.tensor([-0.5, 1.0]))
    torch.testing.assert_close(towards.dlr(logits), torch.tensor([-1 / 2.5, 4 / 4.5]))
    torch.testing.assert_close(towards.dlr(7 * logits), towards.dlr(logits))


def test_windows_shrink_as_in_the_paper():
    def side(query):
        return window_side(query, 10_000, 0.8, 32, 32, 1)

    assert side(1) == 29  # sqrt(.8 * 1024) = 28.6
    assert side(11) == 20  # .4
    assert side(51) == 14
    assert side(8001) == 2  # .8 / 256 = 3.2 pixels
    assert window_side(9000, 10_000, 0.01, 6, 4, 3) == 3
    assert window_side(1, 10_000, 1.0, 6, 4, 1) == 4


def test_a_bump_is_a_hill_over_a_hollow():
    for side in (3, 4, 7):
        shape = bump(side)
        assert shape.square().sum() == pytest.approx(1, abs=1e-6)
        assert (shape[: side // 2] > 0).all()
        assert (shape[side // 2 :] < 0).all()
    # 2 by 4 with its centre at (1, 2): sums from distance 1 and 2 on of 1 + 1/4 + 1/9.
    far, near, top = 1 / 9, 1 / 4 + 1 / 9, 1 + 1 / 4 + 1 / 9
    upper = torch.tensor([[far, near, near, near], [far, near, top, near]])
    found = bump(4)[:2]
    torch.testing.assert_close(found / found[1, 2] * top, upper)
