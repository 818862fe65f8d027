"""Smooth networks, and their influence by dense curvatures from torch's own second derivatives."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call
from torch.nn import functional as F

from modeledit.data import Split
from modeledit.runtime import Runtime
from modeledit.toys import images

DAMPING = 0.3
RUNTIME = Runtime(batch_size=5)
WHOLE = Runtime(batch_size=16)  # one batch: LiSSA is deterministic


class SmoothNet(nn.Module):
    """A convolution with a stride, BatchNorm, tanh and a classifier: smooth."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, stride=2)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.norm(self.conv(x))).flatten(1))


def smooth():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return SmoothNet().double()


def splits():
    data = Split.of(images())
    return data.subset(range(16)), data.subset(range(16, 22))


def tensors(split):
    batch = next(split.batches(Runtime(batch_size=99)))
    return batch.images.double(), batch.labels


def function(model, layers):
    """A function of one flat vector of the layers' parameters, and that vector, and its parts."""
    model = model.eval()
    named = [(f"{n}.{k}", p) for n in layers
             for k, p in model.get_submodule(n).named_parameters()]  # fmt: skip
    sizes = [p.numel() for _, p in named]

    def logits(flat, pixels):
        parts = zip(named, flat.split(sizes), strict=True)
        return functional_call(model, {n: v.view_as(p) for (n, p), v in parts}, (pixels,))

    flat = torch.cat([p.detach().flatten() for _, p in named])
    by_layer = [sum(p.numel() for p in model.get_submodule(n).parameters()) for n in layers]
    return logits, flat, by_layer


def dense(model, layers, split, curvature):
    logits, flat, _ = function(model, layers)
    pixels, labels = tensors(split)
    if curvature == "hessian":
        return hessian(lambda v: F.cross_entropy(logits(v, pixels), labels), flat)
    total = 0
    for pixel, label in zip(pixels, labels, strict=True):
        change = jacobian(lambda v, x=pixel: logits(v, x[None])[0], flat)  # (classes, size)
        chance = logits(flat, pixel[None])[0].softmax(0)
        if curvature == "gauss-newton":
            bent = torch.diag(chance) - torch.outer(chance, chance)
        else:
            error = chance - F.one_hot(label, len(chance))
            bent = torch.outer(error, error)
        total = total + change.T @ bent @ change
    return total / len(pixels)


def gradients(model, layers, split):
    logits, flat, _ = function(model, layers)
    pixels, labels = tensors(split)
    return jacobian(lambda v: F.cross_entropy(logits(v, pixels), labels, reduction="none"), flat)


def reference(model, layers, reading, curvature, damping=DAMPING):
    """(layer, train, test), sign helpful."""
    train, test = splits()
    ours, theirs = gradients(model, layers, train), gradients(model, layers, test)
    matrix = dense(model, layers, train, curvature)
    sizes = function(model, layers)[2]
    edges = np.cumsum([0, *sizes])
    pieces = [slice(a, b) for a, b in itertools.pairwise(edges)]
    if reading == "projection":
        solved = torch.linalg.solve(matrix + damping * torch.eye(len(matrix)).double(), theirs.T)
        return torch.stack([ours[:, p] @ solved[p] for p in pieces])
    found = []
    for p in pieces:
        block = matrix[p, p] + damping * torch.eye(p.stop - p.start).double()
        found.append(ours[:, p] @ torch.linalg.solve(block, theirs[:, p].T))
    return torch.stack(found)


def near(found, wanted, share=1e-5):
    assert (found - wanted).abs().max() <= share * wanted.abs().max()
