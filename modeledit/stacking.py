"""Several draws of one layer's parameter in one pass: the batch is stacked, once per draw.

Small batches of small images leave a processor waiting for the weights. With one parameter moving,
all layers behind it stay the same, so the batch is repeated and only the layer that moves sees each
repetition with weights of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from modeledit.data import Batch
from modeledit.gradients import Scalar, scalar
from modeledit.replay import replaced
from modeledit.runtime import Meter

_PIXELS = 2**17  # in one stacked batch: more was no faster on two cores, and memory grows with it


def repetitions(batches: Sequence[Tensor], samples: int) -> int:
    """How many of `samples` draws to stack for images of these sizes: a divisor of `samples`."""
    pixels = max((images.numel() // max(images.shape[1], 1) for images in batches), default=1)
    most = max(1, min(samples, _PIXELS // max(pixels, 1)))
    return next(count for count in range(most, 0, -1) if samples % count == 0)


def repeated(column: Tensor, count: int) -> Tensor:
    """`count` copies of the rows, whole copies one after the other."""
    return column.repeat(count, *[1] * (column.dim() - 1)) if count > 1 else column


class Replicas:
    """Copies of the layer that owns a parameter, each for one repetition of a stacked batch."""

    def __init__(self, owner: nn.Module, parameter: str, count: int) -> None:
        self._owner = owner
        self._parameter = parameter
        self._copies = [copy.deepcopy(owner).requires_grad_(False) for _ in range(count)]
        self._values = [getattr(one, parameter).requires_grad_(True) for one in self._copies]

    def mean_gradients(
        self,
        forward: Callable[[Tensor, int], Tensor],
        batches: Sequence[Batch],
        f: Scalar,
        meter: Meter,
    ) -> list[Tensor]:
        """For each copy the gradient of the mean of F over all examples of `batches`.

        forward: (images, repetitions) -> logits, the repetitions one after the other.
        """
        count, total = len(self._copies), [torch.zeros_like(v) for v in self._values]
        for batch in batches:
            with replaced(self._owner, self._forward):
                logits = forward(batch.images, count)
            value = scalar(logits, repeated(batch.labels, count), f).sum()
            meter.forward(len(logits))
            if not value.requires_grad:  # the layer takes no part
                continue
            found = torch.autograd.grad(value, self._values)
            meter.backward(len(logits))
            for sum_, gradient in zip(total, found, strict=True):
                sum_ += gradient
        examples = sum(len(batch.labels) for batch in batches)
        return [sum_.div_(max(examples, 1)) for sum_ in total]

    @torch.no_grad()
    def move(self, start: Tensor, offsets: Sequence[Tensor]) -> None:
        """Set the parameter of each copy to `start` plus its offset."""
        for value, offset in zip(self._values, offsets, strict=True):
            torch.add(start.to(value.device), offset, out=value)

    def _forward(self, images: Tensor) -> Tensor:
        parts = images.chunk(len(self._copies))
        return torch.cat([one(part) for one, part in zip(self._copies, parts, strict=True)])


def replicas(model: nn.Module, name: str, count: int) -> Replicas | None:
    """For a parameter of a convolution or a BatchNorm, whose examples lie along the first axis and
    do not mix; None for any other, and where hooks or other names see the layer."""
    path, _, parameter = name.rpartition(".")
    owner = model.get_submodule(path)
    value = getattr(owner, parameter)
    uses = sum(p is value for _, p in model.named_parameters(remove_duplicate=False))
    plain = isinstance(owner, _ConvNd) or (isinstance(owner, _BatchNorm) and not owner.training)
    seen = owner._forward_hooks or owner._forward_pre_hooks or "forward" in vars(owner)
    if count < 2 or uses != 1 or not plain or seen:
        return None
    return Replicas(owner, parameter, count)
