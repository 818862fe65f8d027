"""Attacks: small changes of the pixels that change the answer. One file each, see `Attack`.

    network = PixelModel(model, mean, std)
    changed = Pgd(eps=8 / 255)(network, pixels, labels)

Pixels are in 0..1 and eps is in their unit, whatever mean and std the model was trained with.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from modeledit.attacks._balls import Norm
from modeledit.attacks._draws import Draws, draw_targets
from modeledit.attacks._goals import Goal
from modeledit.attacks._networks import PixelModel
from modeledit.errors import ModelEditError
from modeledit.scorers._options import choice, flag, non_negative

__all__ = ["Attack", "Draws", "Goal", "PixelModel", "draw_targets"]


@dataclass(frozen=True)
class Attack(ABC):
    """Base of all attacks: a frozen dataclass whose fields are its options, each of them read.

    A subclass supplies `run`. eps: largest change, of any pixel ("linf") or as the Euclidean length
    over all pixels and channels ("l2"). targeted: towards a label per image, else away from the
    true one.
    """

    eps: float = 8 / 255
    norm: Norm = "linf"
    targeted: bool = False

    def __post_init__(self) -> None:
        choice("norm", self.norm, Norm)
        flag("targeted", self.targeted)
        non_negative("eps", self.eps)
        if self.norm == "linf" and self.eps > 1:
            self._beyond(1.0)

    @abstractmethod
    def run(self, network: PixelModel, pixels: Tensor, goal: Goal, draws: Draws) -> Tensor:
        """(B, C, H, W) changed pixels, in 0..1 and within eps of `pixels`; `draws` is all chance
        there is."""

    def passes(self) -> int:
        """Forward-equivalents of an image at most, of which a gradient is three: here one gradient.
        An attack that takes more says so."""
        return 3

    def __call__(
        self,
        network: PixelModel,
        pixels: Tensor,
        labels: Tensor,
        *,
        targets: Tensor | None = None,
        indices: Tensor | None = None,
        seed: int = 0,
    ) -> Tensor:
        """(B, C, H, W) changed pixels for (B, C, H, W) pixels and (B,) labels, on their device.

        indices: (B,) what the images are called; an image's random numbers depend on its index and
        the seed, not on the others of its batch. The network is not touched.
        """
        with torch.inference_mode(False):  # whatever the caller is in, autograd must work
            clean = _checked(pixels)
            if self.norm == "l2" and self.eps > math.sqrt(clean[0].numel()):
                self._beyond(math.sqrt(clean[0].numel()))
            if self.targeted and targets is None:
                raise ModelEditError("a targeted attack needs a target per image: use draw_targets")
            if not self.targeted and targets is not None:
                raise ModelEditError("targets are for targeted attacks: set targeted, or give none")
            goal = Goal.of(labels, targets, len(clean))
            goal.check_classes(network.classes(clean))
            if self.eps == 0:
                return clean
            named = range(len(clean)) if indices is None else indices.tolist()
            return self.run(network, clean, goal, Draws(seed, tuple(named), clean.device))

    def _beyond(self, most: float) -> None:
        raise ModelEditError(
            f"eps={self.eps:g} is beyond the pixel range: pixels are in 0..1, so give at most "
            f"{most:g} in {self.norm}; 8 of 255 levels are {8 / 255:.4f}"
        )

    @property
    def name(self) -> str:
        """The name of its file, as the command line spells it."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")


def _checked(pixels: Tensor) -> Tensor:
    """A copy that no caller shares and autograd can work with; outside 0..1 it is refused."""
    if pixels.dim() != 4 or not len(pixels):
        raise ModelEditError(f"pixels of shape {tuple(pixels.shape)}: give (B, C, H, W), B >= 1")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # NaN included
        raise ModelEditError(
            f"pixels run from {low:g} to {high:g}, not within 0..1: give them before mean and std "
            "are applied, or bring inputs back by PixelModel.pixels"
        )
    return pixels.detach().clone()
