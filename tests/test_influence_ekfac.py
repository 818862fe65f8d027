"""EK-FAC against Kronecker products written out, and against kronfluence."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeledit.data import Split
from modeledit.errors import ModelEditError
from modeledit.influence import Ekfac, Exact, ekfac, influence, self_influence
from modeledit.runtime import Runtime
from modeledit.toys import images, net

RUNTIME = Runtime(batch_size=5)


class Small(nn.Module):
    """Convolutions with BatchNorm, with and without bias and stride, grouped, then two linear."""

    def __init__(self, classes=3, groups=1):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, stride=2, groups=groups)
        self.hidden = nn.Linear(24, 5)
        self.head = nn.Linear(5, classes)

    def forward(self, x):
        x = F.relu(self.norm(self.conv1(x)), inplace=True)
        x = F.relu(self.conv2(x), inplace=True)
        return self.head(F.relu(self.hidden(x.flatten(1))))


def small(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return Small(**options)


def splits(train=18):
    data = Split.of(images(24))
    return data.subset(range(train)), data.subset(range(train, 24))


def corr(a, b):
    return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1])


def signals(model, name, pixels, cotangents):
    """Inputs (n, positions, fan_in + 1 with bias) and, per label, errors (n, positions, units)."""
    module = model.get_submodule(name)
    kept = {}

    def keep(_module, args, output):
        kept["input"], kept["output"] = args[0].detach().clone(), output
        return output.clone()

    handle = module.register_forward_hook(keep)
    logits = model(pixels)
    handle.remove()
    errors = [torch.autograd.grad(logits, kept["output"], c, retain_graph=True)[0]
              for c in cotangents(logits.detach())]  # fmt: skip
    if isinstance(module, nn.Conv2d):
        inputs = F.unfold(kept["input"], 3, padding=module.padding, stride=module.stride).mT
        errors = [e.flatten(2).mT for e in errors]
    else:
        inputs, errors = kept["input"][:, None], [e[:, None] for e in errors]
    if module.bias is not None:
        inputs = torch.cat([inputs, torch.ones_like(inputs[..., :1])], -1)
    return inputs, errors


def written_out(model, name, batch, cotangents):
    """The (size, size) curvature of one layer, weight and bias together: Q diag(Lambda) Q'."""
    inputs, errors = signals(model, name, batch.images.double(), cotangents(batch.labels))
    a = torch.einsum("npi,npj->ij", inputs, inputs)
    g = sum(torch.einsum("npi,npj->ij", e, e) for e in errors)
    basis = torch.kron(torch.linalg.eigh(g).eigenvectors, torch.linalg.eigh(a).eigenvectors)
    rows = [torch.einsum("npo,npi->noi", e, inputs).flatten(1) @ basis for e in errors]
    values = sum(r.square() for r in rows).mean(0)
    return basis, values


def gauss_newton(_labels):
    def cotangents(logits):
        chance = logits.softmax(1)
        return [chance[:, c, None].sqrt() * (chance - F.one_hot(torch.tensor(c), 3))
                for c in range(3)]  # fmt: skip

    return cotangents


def empirical(labels):
    return lambda logits: [logits.softmax(1) - F.one_hot(labels, 3)]


@pytest.mark.parametrize("damping", [None, 0.01])
@pytest.mark.parametrize(
    ("curvature", "make"), [("gauss-newton", gauss_newton), ("empirical-fisher", empirical)]
)
def test_ekfac_is_its_kronecker_products_written_out(curvature, make, damping):
    model, (train, test) = small().double().eval(), splits()
    found = influence(model, train, test, curvature=curvature, damping=damping, runtime=RUNTIME)
    assert found.layers == ("conv1", "conv2", "hidden", "head")
    ours, theirs = (next(s.batches(Runtime(batch_size=99))) for s in (train, test))
    for i, name in enumerate(found.layers):
        basis, values = written_out(model, name, ours, make)
        values = values + (0.1 * values.mean() if damping is None else damping)
        rows = []
        for batch in (ours, theirs):
            inputs, errors = signals(model, name, batch.images.double(), empirical(batch.labels))
            rows.append(torch.einsum("npo,npi->noi", errors[0], inputs).flatten(1) @ basis)
        wanted = rows[0] / values @ rows[1].T
        assert (found.values[i] - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_ekfac_of_a_linear_net_of_one_position_is_close_to_exact():
    model = net("linear")
    train, test = splits()
    approximate = influence(model, train, test, damping=0.1, runtime=RUNTIME)
    exact = influence(model, train, test, solver=Exact(), damping=0.1, runtime=RUNTIME)
    for a, b in zip(approximate.values, exact.values, strict=True):
        assert corr(a, b) > 0.95


@pytest.mark.parametrize("name", ["linear", "norm", "shared"])
def test_batches_do_not_matter(name):
    train, test = splits()
    one = influence(net(name), train, test, runtime=Runtime(batch_size=1)).values
    many = influence(net(name), train, test, runtime=Runtime(batch_size=9)).values
    assert (one - many).abs().max() <= 1e-3 * many.abs().max()


def test_beyond_ten_classes_labels_are_drawn_by_the_seed():
    model, (train, test) = small(classes=12), splits()

    def run(seed, batch_size):
        return influence(model, train, test, runtime=Runtime(seed=seed, batch_size=batch_size))

    # One draw per image, whatever the batches.
    first, again, other = run(1, 5).values, run(1, 18).values, run(2, 5).values
    assert corr(first, again) > 0.99999
    assert (first - again).abs().max() < 1e-2 * first.abs().max()
    assert (first - other).abs().max() > 5e-2 * first.abs().max()


def test_grouped_convolutions():
    train, test = splits()
    model = small(groups=2)
    approximate = influence(model, train, test, damping=0.5, layers=["conv2"], runtime=RUNTIME)
    exact = influence(
        model, train, test, solver="exact", damping=0.5, layers=["conv2"], runtime=RUNTIME
    )
    assert corr(approximate.values, exact.values) > 0.95


def test_self_influence_finds_planted_label_errors():
    generator = torch.Generator().manual_seed(8)
    labels = torch.arange(120) % 3
    centres = torch.randn(3, 1, 6, 6, generator=generator)
    pixels = centres[labels] + 0.3 * torch.randn(120, 1, 6, 6, generator=generator)
    wrong = torch.randperm(120, generator=generator)[:12]
    labels[wrong] = (labels[wrong] + 1) % 3
    model = small()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        optimiser = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        for _ in range(10):
            loss = F.cross_entropy(model(pixels), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    split = Split.of(torch.utils.data.TensorDataset(pixels, labels))
    own = torch.stack(list(self_influence(model, split, runtime=RUNTIME).values())).sum(0)
    found = set(own.argsort(descending=True)[:12].tolist()) & set(wrong.tolist())
    assert len(found) >= 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reading": "projection"}, "solver ekfac has no reading='projection': use block"),
        ({"curvature": "hessian"}, "solver ekfac has no curvature='hessian': use gauss-newton"),
        ({"layers": "all"}, "norm is no plain Conv2d or Linear, as ekfac needs"),
        ({"damping": 0.0}, "damping=0.0 leaves the curvature of conv1 singular: raise it"),
    ],
)
def test_bad_input(options, message):
    model, (train, test) = small(), splits()
    with torch.no_grad():
        model.norm.weight[0] = 0.0  # no gradient reaches filter 0
    with pytest.raises(ModelEditError, match=message):
        influence(model, train, test, solver=Ekfac(), runtime=RUNTIME, **options)


def test_a_layer_without_gradient_is_refused():
    model, (train, test) = small(), splits()
    with torch.no_grad():
        model.head.weight.zero_()
    with pytest.raises(ModelEditError, match="the curvature of conv1 is 0"):
        influence(model, train, test, runtime=RUNTIME)
    found = influence(model, train, test, damping=0.1, runtime=RUNTIME)
    assert found.of("conv1").abs().max() == 0


@pytest.mark.slow
def test_against_kronfluence(tmp_path):
    pytest.importorskip("kronfluence")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peer's own
        peer = kronfluence_scores(tmp_path)
    train, test = splits(16)
    found = influence(small(), train, test, curvature="empirical-fisher", runtime=RUNTIME)
    for name in found.layers:
        ours = found.of(name)
        assert corr(ours, peer[name].T) >= 0.99999
        # kronfluence's losses are sums, so its scores have the same scale.
        assert (ours - peer[name].T).abs().max() <= 1e-3 * ours.abs().max()


def kronfluence_scores(folder):
    """{layer: (test, train)}, sign helpful."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task
    from torch.utils.data import Subset

    class Classification(Task):
        def compute_train_loss(self, batch, model, sample=False):
            assert not sample
            return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)

    task, data = Classification(), images(24)
    with torch.random.fork_rng(devices=[]):
        analyzer = Analyzer(
            "peer", prepare_model(small().eval(), task), task, cpu=True, disable_tqdm=True,
            output_dir=str(folder),
        )  # fmt: skip
        analyzer.fit_all_factors(
            "factors", Subset(data, range(16)), per_device_batch_size=4,
            factor_args=FactorArguments(strategy="ekfac", use_empirical_fisher=True),
        )  # fmt: skip
        analyzer.compute_pairwise_scores(
            "scores", "factors", Subset(data, range(16, 24)), Subset(data, range(16)),
            per_device_query_batch_size=8, per_device_train_batch_size=4,
            score_args=ScoreArguments(damping_factor=None, compute_per_module_scores=True),
        )  # fmt: skip
    return analyzer.load_pairwise_scores("scores")


@pytest.mark.parametrize("silent", [False, True])
def test_eigenvectors_come_in_double_precision_where_single_fails(monkeypatch, silent):
    matrix = torch.tensor([[2.0, 1.0], [1.0, 2.0]])
    expected = ekfac._eigenvectors(matrix)
    solve = torch.linalg.eigh

    def failing(given):
        found = solve(given)
        if given.dtype == torch.float32 and silent:
            found.eigenvectors[0, 0] = float("nan")
        elif given.dtype == torch.float32:
            raise torch.linalg.LinAlgError("did not converge")
        return found

    monkeypatch.setattr(torch.linalg, "eigh", failing)
    torch.testing.assert_close(ekfac._eigenvectors(matrix).abs(), expected.abs())
