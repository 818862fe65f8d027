"""Gradients of a scalar of the logits with respect to parameters: of a mean, and per example."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from modeledit.data import Batch
from modeledit.runtime import Meter

Scalar = Literal["loss", "logit", "margin"]
Forward = Callable[[Tensor], Tensor]
Gradient = dict[str, Tensor]  # {parameter name: tensor of the parameter's shape}

_CHUNK_BYTES = 2**30  # of per-example gradients held at once on a GPU


def scalar(logits: Tensor, labels: Tensor, f: Scalar) -> Tensor:
    """(B, C) logits, (B,) labels -> (B,) F of each example.

    loss: cross-entropy, >= 0. logit: that of the label. margin: the label's logit minus the
    logsumexp of all others; positive where the label has more than half of the probability.
    """
    if f == "loss":
        return F.cross_entropy(logits, labels, reduction="none")
    column = labels[:, None]
    own = logits.gather(1, column)[:, 0]
    if f == "logit":
        return own
    return own - logits.scatter(1, column, -torch.inf).logsumexp(1)


def select_parameters(model: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """{name: parameter}, with gradients switched on for these and off for all others."""
    found = dict(model.named_parameters())
    model.requires_grad_(False)
    chosen = {name: found[name] for name in names}
    for parameter in chosen.values():
        parameter.requires_grad_(True)
    return chosen


def mean_gradient(
    forward: Forward,
    parameters: Mapping[str, Tensor],
    batches: Iterable[Batch],
    f: Scalar,
    meter: Meter,
) -> Gradient:
    """Gradient of the mean of F over all examples of `batches`, one batch in memory at a time."""
    total = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
    count = 0
    for batch in batches:
        value = scalar(forward(batch.images), batch.labels, f).sum()
        count += len(batch.labels)
        meter.forward(len(batch.labels))
        if not value.requires_grad:  # none of the parameters takes part
            continue
        found = torch.autograd.grad(
            value, list(parameters.values()), allow_unused=True, materialize_grads=True
        )
        meter.backward(len(batch.labels))
        for name, gradient in zip(parameters, found, strict=True):
            total[name] += gradient
    return {name: gradient / max(count, 1) for name, gradient in total.items()}


def singles(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The examples one by one, as batches of one."""
    for batch in batches:
        for i in range(len(batch.labels)):
            yield Batch(*(column[i : i + 1] for column in batch))


def example_gradients(
    model: nn.Module, parameters: Mapping[str, Tensor], batch: Batch, f: Scalar, meter: Meter
) -> Iterator[Gradient]:
    """Gradients of F, one example after the other.

    On the CPU a backward pass per example is as fast as a vectorised one and holds one gradient
    instead of B; on a GPU they are vectorised in chunks where the model allows it.
    """
    size = sum(p.numel() * p.element_size() for p in parameters.values())
    chunk = max(1, _CHUNK_BYTES // max(size, 1)) if batch.images.is_cuda else 1
    for start in range(0, len(batch.labels), chunk):
        part = Batch(*(column[start : start + chunk] for column in batch))
        try:
            found = vectorised(model, parameters, part, f) if len(part.labels) > 1 else None
        except RuntimeError:  # an operation without a batching rule, or too little memory
            found = None
        if found is None:
            for one in singles([part]):
                yield mean_gradient(model, parameters, [one], f, meter)
            continue
        meter.forward(len(part.labels))
        meter.backward(len(part.labels))
        for i in range(len(part.labels)):
            yield {name: gradient[i] for name, gradient in found.items()}


def vectorised(
    model: nn.Module, parameters: Mapping[str, Tensor], batch: Batch, f: Scalar
) -> dict[str, Tensor]:
    """{name: (B, *shape)} gradients of F of each example, all at once."""

    def value(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, weights, (image[None],))
        return scalar(logits, label[None], f)[0]

    weights = {name: p.detach() for name, p in parameters.items()}
    found: dict[str, Tensor] = vmap(grad(value), in_dims=(None, 0, 0))(
        weights, batch.images, batch.labels
    )
    return found
