"""Draws from balls around a parameter tensor."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Ball = Literal["uniform", "cone"]


def draw(shape: torch.Size, ball: Ball, eps: float, generator: torch.Generator) -> Tensor:
    """A point of the ball of radius `eps` around 0: float32 of `shape`, on the CPU.

    uniform: uniform in the ball (direction: a normal vector; radius eps * U^(1/n)), so that the
             second moment of each entry is eps^2 / (n + 2).
    cone:    direction U(0,1]^n, radius eps * U: every entry is positive. The published code of
             PEPS samples this way; it never moves a parameter downwards.
    """
    size = shape.numel()
    # 1 - [0, 1) is (0, 1]: no entry, direction or radius is 0 by accident.
    level = 1.0 - torch.rand((), generator=generator, dtype=torch.float64).item()
    if ball == "uniform":
        direction = torch.randn(shape, generator=generator)
        radius = eps * level ** (1.0 / size)
    else:
        direction = 1.0 - torch.rand(shape, generator=generator)
        radius = eps * level
    rows = torch.linalg.vector_norm(
        direction.flatten(1) if direction.dim() > 1 else direction, dim=-1
    )
    norm = torch.linalg.vector_norm(rows, dtype=torch.float64).item()  # converts rows, not all
    return direction.mul_(radius / max(norm, torch.finfo(torch.float32).tiny))
