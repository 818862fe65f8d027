"""The cheapest set of weights whose effects, to first order, bring losses where they belong."""

from __future__ import annotations

import torch
from torch import Tensor

SHARPNESS = 3.0  # a loss one unit above another has exp(3) times its price
GROWTH = 16  # one weight more is taken at a time for each so many that are there


def cheapest(
    effects: Tensor, costs: Tensor, wanted: Tensor, pull: Tensor, unit: float, most: int
) -> Tensor:
    """(k,) int64 positions, at most `most`, in the order in which they were taken.

    effects: (C, N), negative = lowers the loss. costs: (N,) > 0. wanted: (C,); losses below 0 are
    to fall that far, the others may rise that far. pull: (C,) >= 0, the price of a loss wherever it
    stands. A weight is worth what it takes from the losses at their prices, over its cost. The
    prices are `pull` and, summing to 1, a softmax of how far each loss is above where it belongs,
    in `unit`s. The best are taken, and prices made anew, until every loss is where it belongs or no
    weight is worth anything: mixed covering and packing by multiplicative weights (Young 2001,
    section 2), with whole weights.
    """
    taken = torch.zeros(effects.shape[1], dtype=torch.bool, device=effects.device)
    above = -wanted
    chosen = [torch.empty(0, dtype=torch.int64, device=effects.device)]
    count = 0
    while bool((above > 0).any()) and count < most:
        prices = torch.softmax(SHARPNESS * above / unit, 0) + pull
        worth = (-(prices @ effects) / costs).masked_fill_(taken, -torch.inf)
        found = worth.topk(min(1 + count // GROWTH, most - count, len(worth)))
        positions = found.indices[found.values > 0]
        if not len(positions):
            break
        chosen.append(positions)
        taken[positions] = True
        count += len(positions)
        above = above + effects[:, positions].sum(1)
    return torch.cat(chosen)
