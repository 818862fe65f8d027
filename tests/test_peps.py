"""PEPS against closed forms: quadratics, limits, the cone, the law of total variance, options."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modeledit.data import Batch
from modeledit.gradients import example_gradients, scalar, select_parameters, vectorised
from modeledit.measures import Consistency, Mean, Stability, Variance
from modeledit.neighbourhood import draw
from modeledit.product_space import Space, explore
from modeledit.runtime import Meter, Runtime
from modeledit.scorers.peps import Peps
from modeledit.toys import NETS, images, net


class Quadratic(nn.Module):
    """Logit 0 of an image with mean m is 0.5 w'Aw - (m b)'w; logit 1 is 0."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        n = 5
        half = torch.randn(n, n, generator=generator)
        self.a = (half + half.T) / 2
        self.b = torch.randn(n, generator=generator)
        self.w = nn.Parameter(torch.randn(n, generator=generator))

    def forward(self, x):
        m = x.mean((1, 2, 3))
        value = 0.5 * self.w @ self.a @ self.w - m * (self.b @ self.w)
        return torch.stack([value, torch.zeros_like(value)], 1)

    def gradient(self, w, m=1.0):
        return self.a @ w - m * self.b


def batch_of(*means):
    pixels = torch.tensor(means, dtype=torch.float32)[:, None, None, None].expand(-1, 1, 2, 2)
    zeros = torch.zeros(len(means), dtype=torch.int64)
    return [Batch(pixels.contiguous(), zeros, zeros)]


def space_of(model, **options):
    original = {name: p.detach().clone() for name, p in model.named_parameters()}
    defaults = {"f": "logit", "expectation": "batch", "eps": 0.5, "samples": 64}
    return Space(model, original, tuple(original), Runtime(), **{**defaults, **options})


def digits_batch(count=6):
    pictures, labels = images(count).tensors
    return [Batch(pictures, labels, torch.arange(count))]


def test_ig_and_variance_of_a_quadratic():
    model, eps, n = Quadratic(), 0.7, 5
    space = space_of(model, eps=eps, samples=1200)
    spread = (model.a @ model.a).diag() * eps**2 / (n + 2)
    ig = explore(space, batch_of(1.0), Mean())["w"]
    standard_error = (spread / 1200).sqrt()
    want = model.gradient(space.original["w"])
    assert ((ig - want).abs() < 4 * standard_error).all()
    offsets = torch.stack([space.offset("w", s) for s in range(1200)])
    torch.testing.assert_close(ig, want + model.a @ offsets.mean(0), rtol=1e-4, atol=1e-5)
    variance = explore(space, batch_of(1.0), Variance())["w"]
    torch.testing.assert_close(variance, spread, rtol=0.15, atol=0)


@pytest.mark.parametrize("expectation", ["product", "batch"])
def test_small_balls_approach_the_gradient(expectation):
    model = Quadratic()

    def explored(measure, eps):
        space = space_of(model, eps=eps, samples=20, expectation=expectation)
        return explore(space, batch_of(1.0), measure)["w"]

    want = model.gradient(model.w.detach().clone())
    torch.testing.assert_close(explored(Mean(), 1e-4), want, rtol=0, atol=1e-3)
    ratio = explored(Variance(), 1e-1) / explored(Variance(), 1e-2)
    torch.testing.assert_close(ratio, torch.full((5,), 100.0), rtol=0.01, atol=0)
    assert torch.equal(explored(Consistency(None), 1e-4), torch.ones(5))


def test_cone_stability_is_minus_the_mean_sign_exactly():
    class Signs(Mean):
        def _add(self, name, g, offset, clean):
            super()._add(name, g.sign(), offset, clean)

    space = space_of(Quadratic(), ball="cone", eps=3.0)
    stability = explore(space, batch_of(1.0, -2.0), Stability(None))["w"]
    signs = explore(space, batch_of(1.0, -2.0), Signs())["w"]
    assert torch.equal(stability, -signs)
    assert stability.abs().min() < 1  # both signs occur, so the test says something


def test_uniform_stability_recognises_a_minimum():
    model = Quadratic()
    model.a = torch.eye(5)
    model.b = model.w.detach().clone()  # the gradient at W_s is W_s - W
    space = space_of(model)
    assert torch.equal(explore(space, batch_of(1.0), Stability(None))["w"], -torch.ones(5))


@pytest.mark.parametrize("measure", [Mean, Variance])
@pytest.mark.parametrize("neighbourhood", ["joint", "tensor"])
def test_product_and_batch_agree_on_one_input(measure, neighbourhood):
    batch = digits_batch(1)
    for name in NETS:
        model = net(name).eval()
        both = [
            explore(
                space_of(model, expectation=e, neighbourhood=neighbourhood, samples=4, f="margin"),
                batch,
                measure(),
            )
            for e in ("product", "batch")
        ]
        for key in both[0]:
            torch.testing.assert_close(both[0][key], both[1][key], rtol=1e-5, atol=1e-7)


def test_total_variance_is_at_least_that_of_the_parameters():
    model = net("norm").eval()
    options = {"samples": 5, "f": "margin", "eps": 0.3}
    total = explore(space_of(model, expectation="product", **options), digits_batch(), Variance())
    part = explore(space_of(model, expectation="batch", **options), digits_batch(), Variance())
    for name in total:
        assert (part[name] >= 0).all()
        assert (total[name] >= part[name] - 1e-6).all()
    assert sum(t.sum() for t in total.values()) > 1.5 * sum(t.sum() for t in part.values())


@pytest.mark.parametrize("measure", [Mean, Variance])
def test_neighbourhoods_agree_on_a_net_of_one_tensor(measure):
    joint = explore(space_of(Quadratic(), samples=8), batch_of(1.0, 2.0), measure())
    tensor = explore(
        space_of(Quadratic(), samples=8, neighbourhood="tensor"), batch_of(1.0, 2.0), measure()
    )
    assert torch.equal(joint["w"], tensor["w"])


def test_tensor_neighbourhood_moves_one_tensor_only():
    model = net("norm").eval()
    space = space_of(model, neighbourhood="tensor", samples=3, f="margin")
    found = explore(space, digits_batch(), Mean())
    parameters = dict(model.named_parameters())
    for name in space.names:
        total = torch.zeros_like(space.original[name])
        for s in range(3):
            with torch.no_grad():
                parameters[name].copy_(space.original[name] + space.offset(name, s))
            model.requires_grad_(True)
            batch = digits_batch()[0]
            value = scalar(model(batch.images), batch.labels, "margin").mean()
            total += torch.autograd.grad(value, parameters[name])[0]
        with torch.no_grad():
            parameters[name].copy_(space.original[name])
        torch.testing.assert_close(found[name], total / 3, rtol=1e-5, atol=1e-7)


def test_eps_0_is_the_gradient_in_one_pass():
    model, runtime = Quadratic(), Runtime()
    original = {"w": model.w.detach().clone()}
    space = Space(model, original, ("w",), runtime, "logit", "batch", eps=0.0)
    found = explore(space, batch_of(1.0), Mean())["w"]
    torch.testing.assert_close(found, model.gradient(original["w"]))
    assert runtime.meter.images == 3
    assert Peps(selective=False, eps=0).samples == 1
    assert Peps(selective=False, eps=0.0, samples=32).samples == 1
    assert Peps(selective=False).samples == 32


def test_scalars_by_hand():
    logits = torch.tensor([[2.0, 0.0, 1.0]])
    label = torch.tensor([2])
    others = torch.tensor(2.0).exp() + 1.0
    assert scalar(logits, label, "logit").item() == 1.0
    torch.testing.assert_close(scalar(logits, label, "margin")[0], 1.0 - others.log())
    loss = (others + torch.tensor(1.0).exp()).log() - 1.0
    torch.testing.assert_close(scalar(logits, label, "loss")[0], loss)


def test_vectorised_gradients_are_those_of_the_loop():
    for name in NETS:
        model = net(name).eval()
        parameters = select_parameters(model, [n for n, _ in model.named_parameters()])
        (batch,) = digits_batch(3)
        together = vectorised(model, parameters, batch, "margin")
        for i, one in enumerate(example_gradients(model, parameters, batch, "margin", Meter())):
            for key in one:
                torch.testing.assert_close(one[key], together[key][i], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("ball", ["uniform", "cone"])
@pytest.mark.parametrize("shape", [(1,), (3, 2), (400,)])
def test_draws_stay_in_the_ball(ball, shape):
    generator = torch.Generator().manual_seed(0)
    draws = [draw(torch.Size(shape), ball, 2.0, generator) for _ in range(200)]
    norms = torch.stack([d.norm() for d in draws])
    assert norms.max() <= 2.0 * (1 + 1e-6)
    size = draws[0].numel()
    mean = 2.0 * size / (size + 1) if ball == "uniform" else 1.0
    assert abs(norms.mean().item() - mean) < 0.15
    if ball == "cone":
        assert all((d > 0).all() for d in draws)
    else:
        assert abs(torch.stack(draws).mean().item()) < 0.2
