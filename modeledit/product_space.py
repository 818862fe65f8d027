"""Gradients over the product of a set of inputs and a ball around the parameters (PEPS).

`explore` visits every (parameter sample, input) pair once and feeds the gradients to a measure,
which keeps running moments: memory does not grow with the number of samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from modeledit.data import Batch
from modeledit.gradients import (
    Gradient,
    Scalar,
    example_gradients,
    mean_gradient,
    select_parameters,
    singles,
)
from modeledit.measures import Measure
from modeledit.neighbourhood import Ball, draw
from modeledit.recording import Recording
from modeledit.replay import Replay
from modeledit.runtime import Runtime, Tick
from modeledit.stacking import Replicas, repeated, repetitions, replicas

Expectation = Literal["product", "batch"]
Neighbourhood = Literal["tensor", "joint"]

_SALT = 101  # keeps these draws apart from others of the same seed
_CHUNK = 8  # examples whose clean gradients are held at once, for measures that compare with them


@dataclass(frozen=True)
class Space:
    """What is varied, and how.

    model: perturbed in place and restored from `original`. names: the parameters attributed.
    neighbourhood "tensor" moves one of them at a time, "joint" all together, each within a ball
    of radius `eps` of its own. The draws depend on the runtime's seed, the parameter's position
    and the sample's number alone, so both neighbourhoods see the same ones.
    replay_bytes bounds what is kept of clean passes (neighbourhood "tensor").
    """

    model: nn.Module
    original: Mapping[str, Tensor]
    names: Sequence[str]
    runtime: Runtime
    f: Scalar
    expectation: Expectation = "product"
    neighbourhood: Neighbourhood = "joint"
    ball: Ball = "uniform"
    eps: float = 0.0
    samples: int = 1
    replay_bytes: int = 2**30

    @property
    def replays(self) -> bool:
        """Whether passes start at the one parameter that moved."""
        return self.neighbourhood == "tensor" and self.eps > 0

    def places(self) -> list[tuple[str, ...]]:
        """The groups of parameters that move together."""
        # Without a perturbation the two neighbourhoods are one, and a single place is cheaper.
        return [(name,) for name in self.names] if self.replays else [tuple(self.names)]

    def weights(self) -> dict[str, Tensor]:
        """The unperturbed parameters, on the device."""
        return {name: self.original[name].detach().to(self.runtime.device) for name in self.names}

    def offsets(self, names: Sequence[str], sample: int) -> dict[str, Tensor]:
        """W_s - W for each of the parameters; none where nothing moves."""
        return {name: self.offset(name, sample) for name in names} if self.eps else {}

    def offset(self, name: str, sample: int) -> Tensor:
        """W_s - W for one parameter, on its device."""
        home = self.original[name]
        generator = self.runtime.generator(_SALT, list(self.names).index(name), sample)
        return draw(home.shape, self.ball, self.eps, generator).to(self.runtime.device)


def explore(space: Space, batches: Sequence[Batch], measure: Measure) -> dict[str, Tensor]:
    """{parameter: the measure's result} over all inputs and parameter samples."""
    one_by_one = space.expectation == "product" and (space.replays or measure.compares)
    inputs = list(singles(batches)) if one_by_one else list(batches)
    replay = _Replayed(space) if space.replays else None
    results: dict[str, Tensor] = {}
    steps = len(space.places()) * space.samples
    with space.runtime.progress.stage("gradients", steps) as tick:
        for names in space.places():
            source = _Gradients(space, names, replay)
            try:
                _visit(space, source, inputs, measure, tick)
            finally:
                _restore(space, names)
            results |= {name: measure.result(name) for name in names}
    return results


def _visit(
    space: Space, source: _Gradients, inputs: list[Batch], measure: Measure, tick: Tick
) -> None:
    portions = list(_portions(space, inputs, measure))
    for portion in portions:
        _restore(space, source.names)
        together = source.prepare(portion)
        clean = [measure.keep(g) for g in source(portion)] if measure.compares else []
        for start in range(0, space.samples, together):
            samples = range(start, start + together)
            offsets = [space.offsets(source.names, sample) for sample in samples]
            for i, offset, gradient in source.moved(portion, offsets):
                measure.update(gradient, offset, clean[i] if clean else {})
            if portion is portions[-1]:
                tick(len(samples))


def _portions(space: Space, inputs: list[Batch], measure: Measure) -> Iterator[list[Batch]]:
    """The inputs in groups, each of which is visited once with every parameter sample."""
    if space.expectation == "batch" or not measure.compares:
        yield inputs
        return
    for start in range(0, len(inputs), _CHUNK):
        yield inputs[start : start + _CHUNK]


class _Gradients:
    """Gradients of F: one per example, or one of the mean; where the parameters are, or moved."""

    def __init__(self, space: Space, names: tuple[str, ...], replay: _Replayed | None) -> None:
        self.names = names
        self._space = space
        self._parameters = select_parameters(space.model, names)
        self._replay = replay
        self._copies: Replicas | None = None

    def __call__(self, inputs: list[Batch]) -> Iterator[Gradient]:
        space = self._space
        if space.expectation == "batch":
            yield self._mean(inputs)
        elif self._replay is not None:
            yield from (self._mean([one]) for one in inputs)
        else:
            for batch in inputs:
                yield from example_gradients(
                    space.model, self._parameters, batch, space.f, space.runtime.meter
                )

    def prepare(self, inputs: list[Batch]) -> int:
        """Record the clean passes; how many samples share one: a divisor of their number."""
        if self._replay is None:
            return 1
        count = repetitions([batch.images for batch in inputs], self._space.samples)
        self._copies = replicas(self._space.model, self.names[0], count)
        for batch in inputs:
            self._replay.record(batch.images, 1)
            if self._copies is not None:
                self._replay.record(batch.images, count)
        return 1 if self._copies is None else count

    def moved(
        self, inputs: list[Batch], offsets: list[Gradient]
    ) -> Iterator[tuple[int, Gradient, Gradient]]:
        """(position, offset, gradient) with the parameters moved by each of the offsets."""
        if self._copies is not None:
            yield from self._stacked(inputs, offsets, self._copies)
            return
        for offset in offsets:
            _perturb(self._space, self.names, offset)
            for i, gradient in enumerate(self(inputs)):
                yield i, offset, gradient

    def _stacked(
        self, inputs: list[Batch], offsets: list[Gradient], copies: Replicas
    ) -> Iterator[tuple[int, Gradient, Gradient]]:
        space, (name,) = self._space, self.names
        copies.move(space.original[name], [offset[name] for offset in offsets])
        means = space.expectation == "batch"
        for i, batches in enumerate([inputs] if means else [[one] for one in inputs]):
            found = copies.mean_gradients(self._forward, batches, space.f, space.runtime.meter)
            for offset, gradient in zip(offsets, found, strict=True):
                yield i, offset, {name: gradient}

    def _forward(self, images: Tensor, count: int = 1) -> Tensor:
        """Logits of `count` repetitions of the images."""
        if self._replay is not None:
            return self._replay.run(self.names, images, count)
        logits: Tensor = self._space.model(images)
        return logits

    def _mean(self, inputs: list[Batch]) -> Gradient:
        # A replayed pass is metered like a full one: an upper bound.
        space = self._space
        return mean_gradient(self._forward, self._parameters, inputs, space.f, space.runtime.meter)


class _Replayed:
    """The inputs' clean passes, found again by their images and how often they were repeated."""

    def __init__(self, space: Space) -> None:
        self._replay = Replay(space.model, space.replay_bytes)
        self._recordings: dict[tuple[int, int], Recording] = {}
        self._meter = space.runtime.meter

    def record(self, images: Tensor, count: int) -> None:
        if (id(images), count) not in self._recordings:
            self._meter.forward(count * len(images))
            self._recordings[id(images), count] = self._replay.record(repeated(images, count))

    def run(self, names: tuple[str, ...], images: Tensor, count: int) -> Tensor:
        return self._replay.run(self._recordings[id(images), count], names)


@torch.no_grad()
def _perturb(space: Space, names: tuple[str, ...], offset: Gradient) -> None:
    """Move the named parameters to W_s."""
    _restore(space, names)
    parameters = dict(space.model.named_parameters())
    for name in offset:
        parameters[name].add_(offset[name])


@torch.no_grad()
def _restore(space: Space, names: tuple[str, ...]) -> None:
    parameters = dict(space.model.named_parameters())
    for name in names:
        parameters[name].copy_(space.original[name])
