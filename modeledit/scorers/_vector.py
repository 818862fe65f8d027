"""Some parameters of a working copy as one long vector, for scorers that play an edit through."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from modeledit.gradients import select_parameters


class Vector:
    """The parameters `names` of `model`, one after the other; gradients are for these alone."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        self._parameters = select_parameters(model, names)
        self.size = sum(p.numel() for p in self._parameters.values())

    def values(self) -> Tensor:
        """(size,) as they are now."""
        return torch.cat([p.detach().flatten() for p in self._parameters.values()])

    def gradient(self, loss: Tensor) -> Tensor:
        """(size,) of a scalar; 0 for parameters that it does not depend on."""
        found = torch.autograd.grad(
            loss, list(self._parameters.values()), allow_unused=True, materialize_grads=True
        )
        return torch.cat([part.flatten() for part in found])

    def zero(self, positions: Tensor) -> None:
        """Set weights of the working copy to 0."""
        weights = self.values()
        weights[positions] = 0
        for name, part in self.by_name(weights).items():
            self._parameters[name].data.copy_(part)

    def by_name(self, vector: Tensor) -> dict[str, Tensor]:
        """A (size,) vector as {parameter name: tensor of its shape}."""
        sizes = [p.numel() for p in self._parameters.values()]
        parts = zip(self._parameters.items(), torch.split(vector, sizes), strict=True)
        return {name: part.view(p.shape) for (name, p), part in parts}


def last(weights: Sequence[str], parameters: Mapping[str, Tensor], share: float) -> list[str]:
    """The shortest end of `weights` that holds at least `share` of all their entries."""
    sizes = [parameters[name].numel() for name in weights]
    held, count = 0, 0
    while held < share * sum(sizes):
        count += 1
        held += sizes[-count]
    return list(weights[len(weights) - count :])
