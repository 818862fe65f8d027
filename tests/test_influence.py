"""Influence against dense curvatures by torch's own second derivatives, solver against solver."""

from __future__ import annotations

import pytest
import torch
from influence_cases import (
    DAMPING,
    RUNTIME,
    WHOLE,
    dense,
    gradients,
    near,
    reference,
    smooth,
    splits,
)
from torch import nn
from torch.autograd.functional import hessian, jacobian
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from modeledit.data import Split
from modeledit.errors import ModelEditError
from modeledit.influence import ConjugateGradients, Ekfac, Exact, Lissa, influence, self_influence
from modeledit.influence.problem import pose
from modeledit.influence.products import dampings
from modeledit.toys import SIZE, Failing, everything, net


@pytest.mark.parametrize("curvature", ["gauss-newton", "empirical-fisher", "hessian"])
@pytest.mark.parametrize("reading", ["block", "projection"])
def test_exact_is_the_dense_inverse(reading, curvature):
    model = smooth()
    for layers in (["conv", "head"], ["conv", "norm", "head"]):
        found = influence(
            model, *splits(), solver="exact", reading=reading, curvature=curvature,
            damping=DAMPING, layers=layers, runtime=RUNTIME,
        )  # fmt: skip
        assert found.layers == tuple(layers)
        assert found.values.dtype == torch.float32
        near(found.values.double(), reference(model, layers, reading, curvature))


@pytest.mark.parametrize("name", ["linear", "norm", "shared"])
def test_nets_with_batchnorm_and_shared_modules(name):
    model = net(name).double()
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    found = influence(model, *splits(), solver="exact", damping=DAMPING, runtime=RUNTIME)
    assert found.layers == tuple(layers)
    near(found.values.double(), reference(model, layers, "block", "gauss-newton"))
    every = influence(model, *splits(), solver="cg", layers="all", runtime=RUNTIME)
    assert set(every.layers) - set(layers) == ({"bn1", "bn2"} if name == "norm" else set())


def test_projection_sums_to_koh_and_liang():
    model, (train, test) = smooth(), splits()
    layers = ["conv", "norm", "head"]
    # In the model's precision the sum over layers is the whole product, to rounding.
    matrix = dense(model, layers, train, "gauss-newton")
    ours, theirs = gradients(model, layers, train), gradients(model, layers, test)
    whole = -ours @ torch.linalg.solve(matrix + DAMPING * torch.eye(len(matrix)).double(), theirs.T)
    found = influence(
        model, train, test, solver="exact", reading="projection", sign="koh-liang", layers="all",
        damping=DAMPING,
    )  # fmt: skip
    assert found.header["sign"] == "koh-liang"
    near(found.total().double(), whole, 1e-6)
    near(reference(model, layers, "projection", "gauss-newton").sum(0), -whole, 1e-10)


@pytest.mark.parametrize("curvature", ["gauss-newton", "empirical-fisher", "hessian"])
@pytest.mark.parametrize("reading", ["block", "projection"])
def test_iterative_solvers_meet_the_exact_one(reading, curvature):
    model = smooth()

    def run(solver):
        return influence(
            model, *splits(), solver=solver, reading=reading, curvature=curvature, damping=4.0,
            layers="all", runtime=WHOLE,
        ).values  # fmt: skip

    exact = run("exact")
    near(run(ConjugateGradients(tolerance=1e-7)), exact, 1e-6)
    near(run(Lissa(tolerance=1e-3)), exact, 1e-3)


def test_lissa_on_batches_and_with_a_scale_comes_close():
    train, test = splits()
    options = {"damping": 2.0, "layers": ["head"]}
    exact = influence(smooth(), train, test, solver="exact", **options).values
    # Any admissible scale has the same fixed point: d = damping / s.
    for scale in (3.0, 20.0):
        rough = Lissa(scale=scale, tolerance=1e-3)
        near(influence(smooth(), train, test, solver=rough, runtime=WHOLE, **options).values,
             exact, 1e-3)  # fmt: skip
    found = influence(
        smooth(), train, test, solver=Lissa(scale=60.0, steps=200), runtime=RUNTIME, **options
    )
    near(found.values, exact, 0.1)


def test_default_damping_is_a_tenth_of_the_mean_diagonal():
    model = smooth()
    diagonal = dense(model, ["head"], splits()[0], "gauss-newton").detach().diagonal().mean()
    options = {"layers": ["head"], "runtime": RUNTIME}
    default = influence(model, *splits(), solver="exact", **options).values
    given = influence(
        model, *splits(), solver="exact", damping=0.1 * float(diagonal), **options
    ).values
    near(default, given, 1e-5)
    # Iterative solvers estimate the diagonal from a few vectors of random signs.
    problem = pose(
        model, splits()[0], reading="block", curvature="gauss-newton", damping=None,
        layers=["head"], runtime=RUNTIME,
    )  # fmt: skip
    estimate = dampings(problem)["head"]
    assert estimate == pytest.approx(0.1 * float(diagonal), rel=0.3)
    rough = influence(model, *splits(), solver=ConjugateGradients(tolerance=1e-8), **options)
    same = influence(model, *splits(), solver="exact", damping=estimate, **options)
    near(rough.values, same.values, 1e-5)


def test_self_influence_is_the_diagonal():
    model, (train, _) = smooth(), splits()
    options = {"solver": "exact", "damping": DAMPING, "runtime": RUNTIME}
    own = self_influence(model, train, **options)
    full = influence(model, train, train, **options)
    for i, name in enumerate(full.layers):
        near(own[name], full.values[i].diagonal(), 1e-5)
        assert own[name].min() >= 0
    few = self_influence(model, train, memory=1, **options)  # image by image
    near(few["head"], own["head"], 1e-6)


def test_leave_one_out_retraining_of_a_logistic_regression():
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randn(40, 1, 1, 3, generator=generator)
    labels = (pixels[:, 0, 0, 0] + 0.8 * torch.randn(40, generator=generator) > 0).long()
    rows = pixels.flatten(1).double()
    ridge = 0.05

    def loss(flat, kept):
        scores = rows @ flat.view(2, 3).T
        each = F.cross_entropy(scores, labels, reduction="none")
        # All fits divide by 40: leaving one out is down-weighting it to 0.
        return each[kept].sum() / 40 + ridge / 2 * flat.square().sum(), each

    def fit(kept):
        flat = torch.zeros(6, dtype=torch.float64)
        for _ in range(30):
            slope = jacobian(lambda v: loss(v, kept)[0], flat)
            flat = flat - torch.linalg.solve(hessian(lambda v: loss(v, kept)[0], flat), slope)
        return flat

    every = torch.arange(40)
    best = fit(every)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False)).double()
    with torch.no_grad():
        model[1].weight.copy_(best.view(2, 3))
    split = Split.of(TensorDataset(pixels, labels))
    found = influence(model, split, split, solver="exact", curvature="hessian", damping=ridge)
    # Removing image j changes the loss of image z by influence / n.
    predicted = found.total() / 40
    before = loss(best, every)[1]
    actual = torch.stack([loss(fit(every[every != j]), every)[1] - before for j in range(40)])
    both = torch.stack([predicted.flatten().double(), actual.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.99
    near(predicted.double(), actual, 0.3)


@pytest.mark.parametrize(
    "solver", [Exact(), ConjugateGradients(), Ekfac(), Lissa(steps=20, tolerance=0.9)]
)
def test_the_model_is_untouched_and_the_seed_decides(solver):
    model = net("norm")
    next(model.parameters()).requires_grad_(False)
    before = everything(model)

    def run(memory=2**30):
        return influence(
            model, *splits(), solver=solver, damping=1.0, runtime=RUNTIME, memory=memory
        ).values

    first = run()
    assert torch.equal(first, run())
    assert everything(model) == before
    if not isinstance(solver, Lissa):  # whose steps are coarse
        near(run(memory=4 * first.numel()), first, 1e-3)  # one test image at a time
    with pytest.raises(ZeroDivisionError):
        influence(model, Split.of(Failing()), splits()[1], solver=solver, runtime=RUNTIME)
    assert everything(model) == before


def test_layers_that_are_no_plain_products_go_one_by_one():
    class Odd(nn.Module):
        """A convolution over (image, patch) rows, grouped and dilated ones, a tied matrix."""

        def __init__(self):
            super().__init__()
            self.grouped = nn.Conv2d(1, 4, 3, padding="same", padding_mode="circular")
            self.deep = nn.Conv2d(4, 4, 3, groups=2, dilation=2, padding=2)
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
            self.second.weight = self.first.weight
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            x = torch.tanh(self.deep(torch.tanh(self.grouped(x))))
            x = x.flatten(2).mT.reshape(-1, 4)  # (images * positions, channels)
            x = torch.tanh(self.second(torch.tanh(self.first(x))))
            return self.head(x.reshape(-1, SIZE * SIZE, 4).mean(1))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Odd().double()
    options = {"solver": "exact", "damping": DAMPING}
    found = influence(model, *splits(), layers=["deep", "first", "head"], **options)
    wanted = reference(model, ["deep", "first", "head"], "block", "gauss-newton")
    near(found.values.double()[[0, 2]], wanted[[0, 2]])
    # The tied weight counts where it is first held, with both of its uses; so ekfac refuses it.
    assert not torch.allclose(found.values.double()[1], torch.zeros(1).double())
    with pytest.raises(ModelEditError, match="first is no plain Conv2d or Linear"):
        influence(model, *splits(), solver="ekfac")
    plain = ["grouped", "deep", "head"]
    found = influence(model, *splits(), layers=plain, solver="cg", damping=DAMPING)
    near(found.values.double(), reference(model, plain, "block", "gauss-newton"), 1e-3)
