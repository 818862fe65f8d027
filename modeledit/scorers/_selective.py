"""Which weights help the target much more than they matter for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from modeledit.data import Batch
from modeledit.measures import Effect, Mean
from modeledit.product_space import Space, explore
from modeledit.scorers._parts import Filters

FLOOR = 0.1  # of the tensor's mean effect: weights without any effect get no huge score


def selective(
    space: Space, forget: Sequence[Batch], retain: Sequence[Batch], filters: Filters | None
) -> dict[str, Tensor]:
    """{parameter: E_forget[a] / (sqrt(E_retain[a^2]) + FLOOR * its mean)}, a = theta * gradient.

    a is what F loses, to first order, when the weight is set to 0; with `filters` it is summed
    over each filter's weights per example, and the answer is {parameter: (units,)}.
    """
    weight = space.weights()
    # The numerator is linear in the gradient, so that of the mean will do.
    gradient = explore(replace(space, expectation="batch"), forget, Mean())
    square = explore(space, retain, Effect(weight, filters, power=2))
    scores = {}
    for name in space.names:
        effect = weight[name] * gradient[name]
        if filters is not None:
            effect = filters(name, effect).sum(1)
        typical = square[name].sqrt()
        floor = FLOOR * typical.mean()
        scores[name] = effect / (typical + floor).clamp_min(torch.finfo(typical.dtype).tiny)
    return scores
