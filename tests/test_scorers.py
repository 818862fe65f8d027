"""The baselines against numbers by hand and slow references."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from modeledit import plugins
from modeledit.data import Split
from modeledit.errors import ModelEditError
from modeledit.runtime import Runtime
from modeledit.scorers.magnitude import Magnitude
from modeledit.scorers.random import Random
from modeledit.scorers.response_norm import ResponseNorm
from modeledit.scorers.ssd import Ssd
from modeledit.scorers.taylor import Taylor
from modeledit.targets import Accuracy, ForgetClass
from modeledit.toys import CLASSES, TARGET, images, net


class Tiny(nn.Module):
    """A 1x1 convolution with weights 1 and -2, then a classifier."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -2.0]).reshape(2, 1, 1, 1))

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))


def tiny_split():
    # Two images of class 0 with pixels (3, 4, 0, 0) and (1, 1, 1, 1); one of class 1, all 9.
    pixels = torch.tensor([[3.0, 4, 0, 0], [1, 1, 1, 1], [9, 9, 9, 9]]).reshape(3, 1, 2, 2)
    return Split.of(TensorDataset(pixels, torch.tensor([0, 0, 1])))


def gradients(model, weight, shown):
    """(examples, *shape) of the cross-entropy, one at a time."""
    model = copy.deepcopy(model).eval()
    parameter = model.get_parameter(weight)
    rows = []
    for image, label in images():
        if shown(int(label)):
            loss = F.cross_entropy(model(image[None]), label[None])
            rows.append(torch.autograd.grad(loss, parameter)[0])
    return torch.stack(rows)


def of_target(label):
    return label in TARGET.classes


def test_response_norm_by_hand():
    scores = ResponseNorm(norm=2)(Tiny(), tiny_split(), ForgetClass((0,)), Runtime(batch_size=1))
    # L2 over the four pixels divided by 2: 5/2 and 2/2, on average 1.75; twice that for weight -2.
    torch.testing.assert_close(scores.values["conv"], torch.tensor([1.75, 3.5]))
    scores = ResponseNorm(norm=1)(Tiny(), tiny_split(), ForgetClass((0,)))
    torch.testing.assert_close(scores.values["conv"], torch.tensor([1.375, 2.75]))
    scores = ResponseNorm(norm=1, inputs=1)(Tiny(), tiny_split(), ForgetClass((1,)))
    torch.testing.assert_close(scores.values["conv"], torch.tensor([9.0, 18.0]))


def test_magnitude_by_hand():
    model = net("norm")
    rows = model.conv2.weight.detach().flatten(1)
    split = Split.of(images())
    by_filter = {n: Magnitude("filter", norm=n)(model, split, TARGET).values for n in (1, 2)}
    torch.testing.assert_close(by_filter[1]["conv2"], rows.abs().sum(1))
    torch.testing.assert_close(by_filter[2]["conv2"], rows.square().sum(1).sqrt())
    by_weight = Magnitude(tensors="all")(model, split, TARGET).values
    assert torch.equal(by_weight["conv2.weight"], model.conv2.weight.detach().abs())
    assert "bn1.bias" in by_weight
    assert set(Magnitude()(model, split, TARGET).values) == {"conv1.weight", "conv2.weight"}


def test_random_is_uniform_seeded_and_blind():
    split = Split.of(images())

    def draw(seed, target=TARGET, **options):
        return Random(**options)(net("norm"), split, target, Runtime(seed=seed)).values

    assert torch.equal(draw(1)["conv2.weight"], draw(1, Accuracy())["conv2.weight"])
    assert not torch.equal(draw(1)["conv2.weight"], draw(2)["conv2.weight"])
    values = draw(1, tensors="all")["conv2.weight"]
    assert 0 <= values.min() < 0.1 < 0.9 < values.max() < 1
    assert draw(1, granularity="filter")["conv1"].shape == (4,)


@pytest.mark.parametrize("name", ["linear", "norm", "shared"])
def test_taylor_is_weight_times_gradient(name):
    model = net(name)
    split = Split.of(images())
    runtime = Runtime(batch_size=3)
    mean = Taylor()(model, split, TARGET, runtime).values
    each = Taylor(expectation="product")(model, split, TARGET, runtime).values
    rows = Taylor("filter")(model, split, TARGET, runtime).values
    each_row = Taylor("filter", expectation="product")(model, split, TARGET, runtime).values
    for weight in mean:
        parameter = model.get_parameter(weight).detach()
        effects = gradients(model, weight, of_target) * parameter
        layer = weight.removesuffix(".weight")
        near = {"rtol": 1e-4, "atol": 1e-6}
        torch.testing.assert_close(mean[weight], effects.mean(0).abs(), **near)
        torch.testing.assert_close(each[weight], effects.abs().mean(0), **near)
        by_row = effects.flatten(2).sum(2)
        torch.testing.assert_close(rows[layer], by_row.mean(0).abs(), **near)
        torch.testing.assert_close(each_row[layer], by_row.abs().mean(0), **near)


def test_ssd_is_the_ratio_of_squared_gradients():
    model, split = net("norm"), Split.of(images())
    found = Ssd(expectation="product")(model, split, TARGET)
    for weight in ("conv1.weight", "bn2.bias"):
        forget = gradients(model, weight, of_target).square().mean(0)
        overall = gradients(model, weight, lambda _: True).square().mean(0)
        want = torch.where(overall > 0, forget / overall, 0.0)
        torch.testing.assert_close(found.values[weight], want, rtol=1e-3, atol=1e-5)
        assert want.max() <= CLASSES + 1e-4  # the forget examples are a third of all
    assert found.header["allocation"] == "global"


def test_ssd_by_batch_squares_the_mean_of_a_group():
    model, split = net("norm"), Split.of(images())
    whole = Ssd(group=24)(model, split, TARGET).values["conv2.weight"]
    forget = gradients(model, "conv2.weight", of_target).mean(0).square()
    overall = gradients(model, "conv2.weight", lambda _: True).mean(0).square()
    sound = overall > 1e-4 * overall.max()  # elsewhere the squared means are rounding errors
    torch.testing.assert_close(whole[sound], (forget / overall)[sound], rtol=2e-2, atol=1e-3)
    # Groups of one are single examples.
    single = Ssd(group=1)(model, split, TARGET).values["conv2.weight"]
    product = Ssd(expectation="product")(model, split, TARGET).values["conv2.weight"]
    torch.testing.assert_close(single, product, rtol=1e-3, atol=1e-6)
    fewer = Ssd(forget_inputs=3)(model, split, TARGET).values["conv2.weight"]
    assert not torch.equal(fewer, Ssd()(model, split, TARGET).values["conv2.weight"])
    fewer = Ssd(all_inputs=6)(model, split, TARGET).values["conv2.weight"]
    assert not torch.equal(fewer, Ssd()(model, split, TARGET).values["conv2.weight"])


def test_ssd_of_a_dead_weight_is_0():
    model = net("norm")
    with torch.no_grad():
        model.bn2.weight[1] = 0.0  # no gradient reaches filter 1 of conv2
    scores = Ssd(expectation="product")(model, Split.of(images()), TARGET).values["conv2.weight"]
    assert scores[1].abs().max() == 0
    assert scores[0].abs().max() > 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("magnitude", {"norm": 3}, "norm=3 is not known: use one of 1, 2"),
        ("magnitude", {"tensors": "x"}, "tensors='x' is not known: use one of weights, all"),
        ("random", {"tensors": "x"}, "tensors='x' is not known"),
        ("response-norm", {"norm": 0}, "norm=0 is not known"),
        ("response-norm", {"inputs": 0}, "inputs=0 is not allowed"),
        ("taylor", {"expectation": "x"}, "expectation='x' is not known"),
        ("taylor", {"inputs": -1}, "inputs=-1 is not allowed"),
        ("taylor", {"tensors": "x"}, "tensors='x' is not known"),
        ("ssd", {"expectation": "x"}, "expectation='x' is not known"),
        ("ssd", {"forget_inputs": 0}, "forget_inputs=0 is not allowed"),
        ("ssd", {"all_inputs": 0}, "all_inputs=0 is not allowed"),
        ("ssd", {"group": 0}, "group=0 is not allowed"),
        ("ssd", {"tensors": "x"}, "tensors='x' is not known"),
    ],
)
def test_bad_options_are_refused_by_name(name, options, message):
    with pytest.raises(ModelEditError, match=message):
        plugins.create("scorers", name, options)


@pytest.mark.parametrize(
    ("name", "granularity"), [("ssd", "filter"), ("response-norm", "weight"), ("taylor", "layer")]
)
def test_a_granularity_that_is_not_offered_is_refused(name, granularity):
    scorer = plugins.create("scorers", name, {"granularity": granularity})
    with pytest.raises(ModelEditError, match=f"not by '{granularity}'"):
        scorer(net("norm"), Split.of(images()), TARGET)
