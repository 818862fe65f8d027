"""Style and texture transfer by matching Gram matrices of a network's features.

Gatys, Ecker, Bethge, "Texture Synthesis Using Convolutional Neural Networks", NeurIPS 2015, and
"Image Style Transfer Using Convolutional Neural Networks", CVPR 2016. The network is any that is at
hand; nothing is downloaded.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modeledit.errors import ModelEditError
from modeledit.models import LoadedModel
from modeledit.runtime import Runtime
from modeledit.scorers._options import positive, share, whole
from modeledit.surgery import tap
from modeledit.units import survey

LEVELS = 5  # layers whose Gram matrices are matched, evenly over the first part of the network
PART = 0.8  # of the layers: the last ones see objects rather than their surface


@dataclass(frozen=True)
class Recipe:
    """texture: share of the texture's term in the loss, in (0, 1]; the rest keeps the content.

    steps and rate: of Adam on the pixels, which start as the content.
    """

    texture: float = 0.9
    steps: int = 60
    rate: float = 0.04

    def __post_init__(self) -> None:
        share("texture", self.texture)
        whole("steps", self.steps, 1)
        positive("rate", self.rate)


@dataclass(frozen=True, eq=False)
class Features:
    """What a network sees of pictures at some of its convolutions.

    size: (H, W) to which pictures are brought. levels: layer names, shallow to deep.
    """

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int]
    levels: tuple[str, ...]

    @classmethod
    def of(cls, loaded: LoadedModel, size: tuple[int, int], runtime: Runtime) -> Features:
        """A copy of a network, without gradients by its parameters."""
        work = copy.deepcopy(loaded.module).to(runtime.device).eval().requires_grad_(False)
        own = loaded.preprocessing
        example = torch.zeros(1, len(own.mean), *size)
        anatomy = survey(work, example)
        convs = [layer.name for layer in anatomy.layers.values() if layer.kind == "conv"]
        if not convs:
            raise ModelEditError(
                "the network for style and texture has no convolution: name another with --features"
            )
        work.requires_grad_(False)
        last = max(1, round(PART * len(convs)))
        places = torch.linspace(0, last - 1, min(LEVELS, last)).round().long().tolist()
        return cls(work, own.mean, own.std, size, tuple(convs[place] for place in places))

    def __call__(self, pixels: Tensor) -> dict[str, Tensor]:
        """{level: (B, C, n)} of pixels (B, 1 or 3, H, W) in 0..1; with a graph by the pixels."""
        channels = len(self.mean)
        if pixels.shape[1] != channels:
            grey = pixels.mean(1, keepdim=True)
            pixels = grey.expand(-1, channels, -1, -1)
        if pixels.shape[2:] != self.size:
            pixels = F.interpolate(pixels, self.size, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(v).to(pixels)[:, None, None] for v in (self.mean, self.std))
        with tap(self.model, self.levels) as found:
            self.model((pixels - mean) / std)
            return {name: outputs[0].flatten(2) for name, outputs in found.items()}


def grams(features: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """{level: (B, C, C)}: mean products of channels over positions."""
    return {name: f @ f.transpose(1, 2) / f.shape[2] for name, f in features.items()}


def transfer(
    content: Tensor, texture: Tensor, features: Features, recipe: Recipe, runtime: Runtime
) -> Tensor:
    """(B, C, H, W) in 0..1: each content picture with the texture of the picture at its position.

    Each level's term is a squared distance over the texture's own squared Gram matrix; the
    content's is taken at the deepest level, over the squared features of the content there.
    """
    device = runtime.device
    content, texture = content.to(device), texture.to(device)
    with torch.no_grad():
        wanted = {name: gram.detach() for name, gram in grams(features(texture)).items()}
        kept = features(content)[features.levels[-1]].detach()
    pixels = content.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([pixels], recipe.rate)
    for _ in range(recipe.steps):
        seen = features(pixels)
        surface = torch.stack([_gap(g, wanted[n]) for n, g in grams(seen).items()]).mean(0)
        shape = _gap(seen[features.levels[-1]], kept)
        loss = recipe.texture * surface + (1 - recipe.texture) * shape
        optimiser.zero_grad()
        torch.autograd.backward(loss.sum())
        optimiser.step()
        with torch.no_grad():
            pixels.clamp_(0, 1)
        runtime.meter.forward(len(content))
        runtime.meter.backward(len(content))
    return pixels.detach()


def _gap(found: Tensor, wanted: Tensor) -> Tensor:
    """(B,) squared distance, relative to what is wanted."""
    difference = (found - wanted).square().flatten(1).sum(1)
    size = wanted.square().flatten(1).sum(1).clamp_min(1e-12)
    found_gap: Tensor = difference / size
    return found_gap
