"""The recipe of the demo's network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from modeledit import demo
from modeledit.demo import train as recipe


@pytest.fixture(autouse=True)
def few_images(monkeypatch: pytest.MonkeyPatch) -> None:
    data = demo.digits(demo.preprocessing())
    few = replace(data, train=data.train.sample(64, 0))
    monkeypatch.setattr(recipe, "digits", lambda _: few)


def dropouts(network: nn.Module) -> list[float]:
    return [m.p for m in network.modules() if isinstance(m, nn.Dropout2d)]


def test_filter_dropout_acts_behind_every_batch_norm_and_in_training_alone() -> None:
    network = recipe.train(1, 0, filter_dropout=0.25)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    assert dropouts(network) == [0.25] * norms
    images = torch.rand(4, 1, 32, 32)
    assert torch.equal(network(images), network(images))  # left for use, nothing is random
    network.train()
    assert not torch.equal(network(images), network(images))


def test_without_it_the_network_is_the_plain_one() -> None:
    network = recipe.train(1, 0)
    assert not dropouts(network)
    stock, _ = demo.load()
    assert network.state_dict().keys() == stock.module.state_dict().keys()
