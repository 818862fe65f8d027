"""Attacks that climb the loss in several steps, from one or more starting points."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from modeledit.attacks import Attack, Draws, Goal, PixelModel
from modeledit.attacks._balls import drawn_inside
from modeledit.scorers._options import flag, refuse, whole


@dataclass(frozen=True)
class Ascent(Attack):
    """steps: gradients per start. random_start: from a random point of the ball, else from the
    image. restarts: starts in all, the later ones for images that have not reached the goal."""

    steps: int = 20
    random_start: bool = True
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("steps", self.steps, 1)
        whole("restarts", self.restarts, 1)
        flag("random_start", self.random_start)
        refuse(
            self.restarts > 1 and not self.random_start,
            f"restarts={self.restarts} without a random start would all be the same: "
            "set random_start, or restarts=1",
        )

    def passes(self) -> int:
        """See the base; one more pass a start looks at where it led."""
        return self.restarts * (3 * self.steps + 1)

    @abstractmethod
    def ascend(self, network: PixelModel, clean: Tensor, start: Tensor, goal: Goal) -> Tensor:
        """From `start` towards the goal, within the ball around `clean`; all (B, C, H, W)."""

    def run(self, network: PixelModel, pixels: Tensor, goal: Goal, draws: Draws) -> Tensor:
        changed = pixels.clone()
        rows = torch.arange(len(pixels), device=pixels.device)  # of images still to be changed
        for restart in range(self.restarts):
            clean, wanted, start = pixels[rows], goal.at(rows), pixels[rows]
            if self.random_start:
                start = drawn_inside(clean, draws.of(rows.tolist()), restart, self.eps, self.norm)
            changed[rows] = self.ascend(network, clean, start, wanted)
            if restart + 1 < self.restarts:
                rows = rows[~wanted.reached(network.logits(changed[rows]))]
            if not len(rows):
                break
        return changed
