"""Running moments of gradients: what `product_space.explore` feeds, sample by sample.

Everything is per element of a parameter, or per group of its elements (`Grouping`) where a filter
counts as one entity.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

NOTHING: Mapping[str, Tensor] = MappingProxyType({})
Grouping = Callable[[str, Tensor], Tensor]  # parameter name, its shape -> (groups, members)


class Measure(ABC):
    """Fed with gradients and the offsets W_s - W they were taken at; `result` also forgets them.

    compares: whether gradients at the unperturbed parameters are needed too, as `keep` made them.
    """

    compares: ClassVar[bool] = False

    def __init__(self) -> None:
        self._mean: dict[str, Tensor] = {}
        self._count: dict[str, int] = {}

    def keep(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What `update` needs of a gradient at the unperturbed parameters."""
        raise NotImplementedError(f"{type(self).__name__} does not compare gradients")

    def update(
        self,
        gradient: Mapping[str, Tensor],
        offset: Mapping[str, Tensor] = NOTHING,
        clean: Mapping[str, Tensor] = NOTHING,
    ) -> None:
        """One more gradient; `offset` is empty where nothing was perturbed."""
        for name, g in gradient.items():
            self._add(name, g, offset.get(name), clean.get(name))

    @abstractmethod
    def _add(self, name: str, g: Tensor, offset: Tensor | None, clean: Tensor | None) -> None:
        """Take one parameter's gradient into the running moments."""

    def result(self, name: str) -> Tensor:
        """The measure of one parameter."""
        self._count.pop(name)
        return self._mean.pop(name)

    def _average(self, name: str, value: Tensor) -> Tensor:
        """Take `value` into the running mean; returns value minus the mean before."""
        if name not in self._mean:
            self._mean[name] = torch.zeros_like(value)
            self._count[name] = 0
        self._count[name] += 1
        delta = value - self._mean[name]
        self._mean[name].add_(delta, alpha=1.0 / self._count[name])
        return delta


class Mean(Measure):
    """E g: real."""

    def _add(self, name: str, g: Tensor, offset: Tensor | None, clean: Tensor | None) -> None:
        del offset, clean
        self._average(name, g)


class Variance(Measure):
    """E g^2 - (E g)^2, population, by Welford's update: >= 0."""

    def __init__(self) -> None:
        super().__init__()
        self._square: dict[str, Tensor] = {}

    def _add(self, name: str, g: Tensor, offset: Tensor | None, clean: Tensor | None) -> None:
        del offset, clean
        # d (x - mean_new) = d^2 (1 - 1/k): never negative, unlike a difference of two sums.
        delta = self._average(name, g)
        if name not in self._square:
            self._square[name] = torch.zeros_like(g)
        self._square[name].addcmul_(delta, delta, value=1.0 - 1.0 / self._count[name])

    def result(self, name: str) -> Tensor:
        count = self._count[name]
        super().result(name)
        return self._square.pop(name) / count


class Effect(Measure):
    """E |w * g| (power 1) or E (w * g)^2 (power 2): what zeroing w does to F, to first order; >= 0.

    weights: None leaves w out. With groups, w * g is summed over each before the power.
    """

    def __init__(
        self, weights: Mapping[str, Tensor] | None, grouping: Grouping | None, power: Literal[1, 2]
    ) -> None:
        super().__init__()
        self._weights = weights
        self._grouping = grouping
        self._power = power

    def _add(self, name: str, g: Tensor, offset: Tensor | None, clean: Tensor | None) -> None:
        del offset, clean
        effect = g if self._weights is None else g * self._weights[name]
        if self._grouping is not None:
            effect = self._grouping(name, effect).sum(1)
        self._average(name, effect.abs() if self._power == 1 else effect.square())


class Stability(Measure):
    """E sgn(W - W_s) sgn(g), in [-1, 1]; with groups E cos(theta - theta_s, g). 0 at eps 0."""

    def __init__(self, grouping: Grouping | None) -> None:
        super().__init__()
        self._grouping = grouping

    def _add(self, name: str, g: Tensor, offset: Tensor | None, clean: Tensor | None) -> None:
        del clean
        back = torch.zeros_like(g) if offset is None else -offset
        self._average(name, _agreement(name, back, g, self._grouping))


class Consistency(Measure):
    """E sgn(g(W)) sgn(g(W_s)), in [-1, 1]; with groups E cos(g(theta), g(theta_s)). 1 at eps 0."""

    compares = True

    def __init__(self, grouping: Grouping | None) -> None:
        super().__init__()
        self._grouping = grouping

    def keep(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if self._grouping is None:  # a sign takes a quarter of the memory
            return {name: g.sign().to(torch.int8) for name, g in gradient.items()}
        return dict(gradient)

    def _add(self, name: str, g: Tensor, offset: Tensor | None, clean: Tensor | None) -> None:
        del offset
        if clean is None:
            raise ValueError("consistency compares with a clean gradient, and none was given")
        self._average(name, _agreement(name, clean, g, self._grouping))


def _agreement(name: str, a: Tensor, b: Tensor, grouping: Grouping | None) -> Tensor:
    """Product of signs per element, or cosine per group; 0 where either is 0."""
    if grouping is None:
        return a.sign() * b.sign()
    return F.cosine_similarity(_unit(grouping(name, a)), _unit(grouping(name, b)), dim=1, eps=0.5)


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1, and zero rows as they are, however small the numbers."""
    largest = rows.abs().amax(1, keepdim=True)
    scaled = torch.where(largest > 0, rows / largest, 0.0)
    return F.normalize(scaled, dim=1)
