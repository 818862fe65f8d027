"""Which regions of a picture a prediction rests on: Shapley values of the cells of a grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from modeledit.runtime import Runtime
from modeledit.shapley.leverage import LeverageCentred
from modeledit.shapley.running import Budget, run
from modeledit.study.disturbing import blur

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CellGame:
    """As many games as pictures, all with the cells of the same grid as players.

    A cell that is absent shows `absent`; the value is the probability of the picture's label.
    """

    model: nn.Module
    images: Tensor  # (m, C, H, W), as the network takes them
    absent: Tensor  # (m, C, H, W)
    labels: Tensor  # (m,)
    side: int

    @property
    def players(self) -> int:
        return self.side**2

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"picture {index}" for index in range(len(self.images)))

    @torch.inference_mode()
    def value(self, alive: Tensor, *, keep: bool = True) -> Floats:
        """See the protocol."""
        del keep  # nothing is cached
        height, width = self.images.shape[2:]
        rows = torch.arange(height) * self.side // height
        columns = torch.arange(width) * self.side // width
        shown = alive.reshape(self.side, self.side)[rows][:, columns].to(self.images.device)
        logits = self.model(torch.where(shown, self.images, self.absent))
        chance = logits.softmax(1).gather(1, self.labels[:, None])[:, 0]
        found: Floats = chance.double().cpu().numpy()
        return found


def regions(
    model: nn.Module, images: Tensor, labels: Tensor, side: int, evaluations: int, runtime: Runtime
) -> Floats:
    """(m, side, side): each cell's share of the probability of the label, sum over cells = that of
    the whole picture minus that of the blurred one.

    images: (m, C, H, W) as the network takes them. Cells that are absent are blurred, so that no
    new edge or colour is brought in.
    """
    device = runtime.device
    absent = torch.stack([hidden(image) for image in images])
    game = CellGame(model.eval(), images.to(device), absent.to(device), labels.to(device), side)
    budget = Budget(evaluations=max(2, evaluations))
    found = run(game, LeverageCentred(), seed=runtime.seed, budget=budget)
    runtime.meter.forward(found.evaluations * len(images))
    return found.values.T.reshape(len(images), side, side)


def hidden(image: Tensor) -> Tensor:
    """(C, H, W) blurred so far that only colours are left, of any range of values."""
    low, high = image.min(), image.max()
    unit = (image - low) / (high - low).clamp_min(1e-6)
    return blur(unit[None], min(image.shape[1:]) / 4)[0] * (high - low) + low
