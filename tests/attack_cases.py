"""Networks to attack: a linear one to reckon with by hand, and a small one that has learned."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeledit.attacks import Goal, PixelModel, draw_targets

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
CLASSES, SIDE = 4, 8


def pictures(count, seed=0):
    """Pixels and labels: a brighter quarter says which class it is."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    pixels = 0.5 + 0.15 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    half = SIDE // 2
    for image, label in zip(pixels, labels.tolist(), strict=True):
        row, column = half * (label // 2), half * (label % 2)
        image[:, row : row + half, column : column + half] += 0.12
    return pixels.clamp(0, 1), labels


@cache
def trained():
    """A convolutional net in training mode, with BatchNorm and dropout, that knows the pictures."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.AvgPool2d(2), nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Dropout(0.1),
            nn.Flatten(), nn.Linear(12 * 16, CLASSES),
        )  # fmt: skip
        pixels, labels = pictures(160, seed=9)
        inputs = wrapped(model).inputs(pixels)
        optimiser = torch.optim.Adam(model.parameters(), 0.005)
        for _ in range(30):
            optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(model(inputs), labels).backward()
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return model


def wrapped(model, **options):
    return PixelModel(model, MEAN, STD, **options)


class Linear(nn.Module):
    """Logits (0, w.x + b) of one-channel images of two pixels, x after mean and std."""

    def __init__(self, weights, bias):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor(weights))
        self.bias = bias

    def forward(self, x):
        score = x.flatten(1) @ self.weights + self.bias
        return torch.stack([torch.zeros_like(score), score], 1)


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        del ctx
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        del ctx, gradient
        raise AssertionError("a gradient was taken")


class Opaque(nn.Module):
    """A model whose gradients must not be asked for."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return NoBackward.apply(self.model(x))


norms = pytest.mark.parametrize("norm", ["linf", "l2"])


def reached(network, pixels, labels, targets=None):
    return Goal(labels, targets).reached(network.logits(pixels))


def prepared(count=24, seed=0):
    network = wrapped(trained())
    pixels, labels = pictures(count, seed)
    targets = draw_targets(labels, CLASSES, torch.arange(count))
    return network, pixels, labels, targets


def pair(a, b):
    return torch.tensor([a, b]).reshape(1, 1, 1, 2)
