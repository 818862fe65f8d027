"""Several draws in one stacked pass: the gradients of one pass per draw."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeledit.data import Batch
from modeledit.runtime import Meter
from modeledit.stacking import Replicas, repeated, repetitions, replicas


def small_net():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 36, 4)
    )
    return net.eval()


def batch_of(count):
    torch.manual_seed(1)
    return Batch(torch.randn(count, 1, 8, 8), torch.arange(count) % 4, torch.arange(count))


def forward_of(net):
    return lambda images, count: net(repeated(images, count))


def one_by_one(net, name, offsets, batches):
    found = []
    for offset in offsets:
        moved = copy.deepcopy(net)
        parameter = dict(moved.named_parameters())[name]
        parameter.data += offset
        losses = [F.cross_entropy(moved(b.images), b.labels, reduction="sum") for b in batches]
        (gradient,) = torch.autograd.grad(sum(losses), [parameter])
        found.append(gradient / sum(len(b.labels) for b in batches))
    return found


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "1.weight", "1.bias"])
def test_stacked_gradients_are_those_of_one_pass_per_draw(name):
    net, batches = small_net(), [batch_of(5), batch_of(3)]
    start = dict(net.named_parameters())[name].detach()
    offsets = [0.3 * torch.randn_like(start) for _ in range(3)]
    copies = replicas(net, name, 3)
    copies.move(start, offsets)
    found = copies.mean_gradients(forward_of(net), batches, "loss", Meter())
    for gradient, wanted in zip(found, one_by_one(net, name, offsets, batches), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-6)


def test_the_network_is_left_as_it_was_after_an_error():
    net = small_net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    copies = replicas(net, "0.weight", 2)

    def broken(images, count):
        net(repeated(images, count))
        raise RuntimeError("no more memory")

    with pytest.raises(RuntimeError, match="no more memory"):
        copies.mean_gradients(broken, [batch_of(2)], "loss", Meter())
    assert "forward" not in vars(net[0])
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_a_layer_that_takes_no_part_has_gradient_zero():
    net = small_net()
    (found,) = Replicas(net[0], "weight", 1).mean_gradients(
        lambda images, _: torch.zeros(len(images), 4), [batch_of(2)], "loss", Meter()
    )
    assert torch.equal(found, torch.zeros_like(found))


def test_only_layers_that_keep_examples_apart_are_stacked():
    net = small_net()
    assert replicas(net, "4.weight", 4) is None  # a linear layer may see tokens along axis 0
    assert replicas(net, "0.weight", 1) is None
    net[1].train()
    assert replicas(net, "1.weight", 4) is None
    net[0].register_forward_hook(lambda *_: None)
    assert replicas(net, "0.weight", 4) is None


def test_a_shared_parameter_is_not_stacked():
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1))
    net[1].weight = net[0].weight
    assert replicas(net, "0.weight", 4) is None


@pytest.mark.parametrize(
    ("shape", "samples", "count"),
    [
        ((32, 3, 32, 32), 32, 4),  # 131,072 pixels in all
        ((1, 3, 32, 32), 32, 32),
        ((1, 3, 224, 224), 32, 2),
        ((32, 3, 224, 224), 32, 1),
        ((32, 3, 32, 32), 7, 1),  # no divisor of 7 fits but 1
        ((32, 3, 32, 32), 6, 3),
    ],
)
def test_repetitions_divide_the_samples_and_fit(shape, samples, count):
    assert repetitions([torch.empty(shape)], samples) == count
