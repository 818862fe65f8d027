"""The cheapest set of weights whose effects, to first order, bring losses where they belong."""

from __future__ import annotations

import torch
from torch import Tensor

SHARPNESS = 3.0  # a loss at its limit has exp(3) times the price of one where it began
GROWTH = 16  # one weight more is taken at a time for each so many that are there


def cheapest(effects: Tensor, costs: Tensor, wanted: Tensor, least: float, most: int) -> Tensor:
    """(k,) int64 positions, at most `most`, in the order in which they were taken.

    effects: (C, N), negative = lowers the loss. costs: (N,) > 0. wanted: (C,); losses below 0 are
    to fall that far, the others may rise that far, at least by `least`. A weight is worth its part
    of the falls less its part of the rises, over its cost; each part is a mean over losses, of
    which those that lag behind or are near their limit count most. The best are taken, and prices
    made anew, until all falls are reached or no weight is worth anything: mixed covering and
    packing by multiplicative weights (Young 2001, section 2), with whole weights.
    """
    falls = wanted < 0
    share = effects / wanted.abs().clamp(min=least)[:, None]  # of what is wanted, or allowed
    taken = torch.zeros(effects.shape[1], dtype=torch.bool, device=effects.device)
    done = torch.zeros_like(wanted)
    chosen = [torch.empty(0, dtype=torch.int64, device=effects.device)]
    count = 0
    while bool((done[falls] > -1).any()) and count < most:
        prices = torch.exp(SHARPNESS * (done - 1))
        prices[falls] = torch.softmax(SHARPNESS * done[falls], 0)
        worth = (-(prices @ share) / costs).masked_fill_(taken, -torch.inf)
        found = worth.topk(min(1 + count // GROWTH, most - count, len(worth)))
        positions = found.indices[found.values > 0]
        if not len(positions):
            break
        chosen.append(positions)
        taken[positions] = True
        count += len(positions)
        done = done + share[:, positions].sum(1)
    return torch.cat(chosen)
