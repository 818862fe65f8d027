"""From scores and a strength to the entries an edit names: exact counts, seeded ties."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from modeledit.errors import ModelEditError

Strength = float | int  # a share in (0, 1], or a count
Order = Literal["highest", "lowest"]
Allocation = Literal["per-tensor", "global"]


def select(
    scores: Mapping[str, Tensor],
    strength: Strength,
    *,
    order: Order,
    allocation: Allocation,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """{name: (k,) int64 flat indices, ascending} of the entries to edit; empty ones left out.

    A float is a share: floor(n * share) of each tensor (allocation "per-tensor") or of all entries
    together ("global"), with the decimal as written (floor of 100 * 0.29 is 29). An int is a count
    likewise; in a tensor with fewer entries it takes them all. Ties are broken by a draw.
    """
    sign = 1 if order == "highest" else -1
    flat = {name: sign * tensor.flatten() for name, tensor in scores.items()}
    if allocation == "per-tensor":
        chosen = {n: _top(t, how_many(len(t), strength), generator) for n, t in flat.items()}
    else:
        chosen = _global(flat, strength, generator)
    return {name: indices for name, indices in chosen.items() if len(indices)}


def how_many(total: int, strength: Strength) -> int:
    """The exact number of entries that a strength means among `total`."""
    if strength < 0:
        raise ModelEditError(f"strength {strength} is negative: give a share in 0..1 or a count")
    if isinstance(strength, int):
        return min(strength, total)
    if strength > 1:
        raise ModelEditError(
            f"strength {strength} is above 1: give a share in 0..1, or a count without a point"
        )
    return int(Fraction(repr(strength)) * total)


def _global(
    scores: Mapping[str, Tensor], strength: Strength, generator: torch.Generator
) -> dict[str, Tensor]:
    names = list(scores)
    joined = torch.cat([scores[name] for name in names])
    chosen = _top(joined, how_many(joined.numel(), strength), generator)
    found, start = {}, 0
    for name in names:
        end = start + scores[name].numel()
        found[name] = chosen[(chosen >= start) & (chosen < end)] - start
        start = end
    return found


def _top(values: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Ascending indices of the `count` largest values, ties at the edge drawn at random."""
    if count == 0:
        return torch.empty(0, dtype=torch.int64)
    edge = values.kthvalue(values.numel() - count + 1).values
    above = (values > edge).nonzero().flatten()
    tied = (values == edge).nonzero().flatten()
    drawn = tied[torch.randperm(len(tied), generator=generator)[: count - len(above)]]
    return torch.cat([above, drawn]).sort().values
