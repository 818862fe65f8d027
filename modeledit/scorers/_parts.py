"""What scorers share: which tensors they score, where filters lie, which examples they see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from modeledit.data import Batch
from modeledit.errors import DataError
from modeledit.scorers import Job
from modeledit.targets import Mask
from modeledit.types import Granularity
from modeledit.units import Anatomy

Tensors = Literal["weights", "all"]  # convolution and linear matrices, or norms and biases too


def names(anatomy: Anatomy, granularity: Granularity, tensors: Tensors) -> tuple[str, ...]:
    """The parameters a score by weight covers, or those that hold the filters' rows."""
    if granularity == "filter":
        return tuple(layer.weight[0] for layer in anatomy.layers.values())
    return anatomy.weights if tensors == "weights" else anatomy.parameters


class Filters:
    """(units, members) of a weight: one row per filter, neuron or head. Biases are left out."""

    def __init__(self, anatomy: Anatomy) -> None:
        self._layers = {layer.weight[0]: layer for layer in anatomy.layers.values()}

    def __call__(self, name: str, tensor: Tensor) -> Tensor:
        layer = self._layers[name]
        rows = tensor[layer.first : layer.first + layer.units * layer.width]
        return rows.reshape(layer.units, -1)

    def layers(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """{weight name: (units,)} -> {layer name: (units,)}"""
        return {self._layers[name].name: tensor for name, tensor in values.items()}


def inputs(job: Job, mask: Mask, count: int, batch_size: int | None = None) -> list[Batch]:
    """Up to `count` examples under the mask: a seeded draw, stratified by class, held in memory."""
    shown = job.split.where(mask)
    chosen = shown.sample(min(count, len(shown)), job.runtime.seed)
    runtime = job.runtime
    if batch_size is not None:
        # Shuffled, since groups of one class would have gradients of another size.
        runtime = replace(runtime, batch_size=batch_size)
    batches = list(chosen.batches(runtime, shuffle=batch_size is not None))
    if not batches:
        raise DataError(f"the {job.split.name} split has no readable example of {job.target}")
    return batches


def joined(batches: list[Batch]) -> list[Batch]:
    """All examples in a single batch."""
    return [Batch(*(torch.cat(column) for column in zip(*batches, strict=True)))]
