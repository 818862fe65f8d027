"""The disturbed copies of a sample of test images, ready to be shown to the network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from modeledit.data import Split
from modeledit.errors import ModelEditError
from modeledit.models import Preprocessing
from modeledit.runtime import Runtime
from modeledit.study.disturbing import CHEAP, NAMES, STYLE, TEXTURE, WHITE, cheap, whitened
from modeledit.study.foreground import estimate
from modeledit.study.transfer import Features, Recipe, transfer

ORIGINAL = "original"
_SALT = 0xD157  # keeps these draws apart from others of the same seed


@dataclass(frozen=True, eq=False)
class Pictures:
    """pixels (B, C, H, W) in 0..1 and labels (B,) of images that could all be read."""

    pixels: Tensor
    labels: Tensor

    @classmethod
    def of(cls, split: Split, scale: Scale, runtime: Runtime) -> Pictures:
        """What is behind the normalised images of a split."""
        batches = list(split.batches(runtime))
        images = torch.cat([batch.images.cpu() for batch in batches])
        return cls(scale.pixels(images), torch.cat([batch.labels.cpu() for batch in batches]))


@dataclass(frozen=True, eq=False)
class Scale:
    """Between what a network takes and pixels in 0..1; mean and std (C, 1, 1)."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, preprocessing: Preprocessing, channels: int) -> Scale:
        """Refuses images of another number of channels than the model's mean and std."""
        if channels != preprocessing.channels or channels not in (1, 3):
            raise ModelEditError(
                f"the images have {channels} channels and the model's mean and std "
                f"{preprocessing.channels}: disturbances need 1 or 3 of both"
            )
        mean, std = (
            torch.tensor(v)[:, None, None] for v in (preprocessing.mean, preprocessing.std)
        )
        return cls(mean, std)

    def pixels(self, images: Tensor) -> Tensor:
        """Normalised images to pixels, what lies outside 0..1 cut off."""
        return (images * self.std + self.mean).clamp(0, 1)

    def images(self, pixels: Tensor) -> Tensor:
        """Pixels to what the network takes."""
        return (pixels - self.mean) / self.std

    def split(self, pixels: Tensor, labels: Tensor, name: str) -> Split:
        """A split of pictures in memory."""
        return Split.of(TensorDataset(self.images(pixels), labels), name)


@dataclass(frozen=True, eq=False)
class Sources:
    """What the disturbances draw on.

    masks: (B, H, W) bool, or None for an estimate. style: (C, H, W) in 0..1. textures: pictures of
    which each image gets one of another class. features: of the network for style and texture.
    """

    masks: Tensor | None
    style: Tensor
    textures: Pictures
    features: Features


@dataclass(frozen=True, eq=False)
class Variant:
    """pixels (B, C, H, W); texture_labels (B,) of the pictures whose texture was taken, if any."""

    name: str
    pixels: Tensor
    texture_labels: Tensor | None = None


def texture_name(share: float) -> str:
    """What the variant with that share of texture is called."""
    return f"{TEXTURE} {100 * share:g} %"


def disturb(
    pictures: Pictures,
    names: tuple[str, ...],
    sources: Sources,
    recipes: Mapping[str, tuple[Recipe, ...]],
    runtime: Runtime,
) -> tuple[Variant, ...]:
    """The pictures as they are, and each disturbance in the order of `names`.

    recipes: of "style" and "texture", one variant each.
    """
    generator = runtime.generator(_SALT)
    found = [Variant(ORIGINAL, pictures.pixels)]
    chosen = _others(pictures.labels, sources.textures.labels, generator)
    with runtime.progress.stage("disturbing", len(names)) as tick:
        for name in names:
            if name == WHITE:
                masks = estimate(pictures.pixels) if sources.masks is None else sources.masks
                found.append(Variant(name, whitened(pictures.pixels, masks)))
            elif name == STYLE:
                style = sources.style.expand_as(pictures.pixels)
                for recipe in recipes[STYLE]:
                    found.append(Variant(name, _moved(pictures, style, sources, recipe, runtime)))
            elif name == TEXTURE:
                texture = sources.textures.pixels[chosen]
                for recipe in recipes[TEXTURE]:
                    made = _moved(pictures, texture, sources, recipe, runtime)
                    labels = sources.textures.labels[chosen]
                    found.append(Variant(texture_name(recipe.texture), made, labels))
            elif name in CHEAP:
                found.append(Variant(name, cheap(name, pictures.pixels, generator)))
            else:
                raise ModelEditError(
                    f"disturbance {name!r} is not known: use one of {', '.join(NAMES)}"
                )
            tick(1)
    return tuple(found)


def _moved(
    pictures: Pictures, texture: Tensor, sources: Sources, recipe: Recipe, runtime: Runtime
) -> Tensor:
    parts = [
        transfer(content, surface, sources.features, recipe, runtime).cpu()
        for content, surface in zip(
            torch.split(pictures.pixels, runtime.batch_size),
            torch.split(texture, runtime.batch_size),
            strict=True,
        )
    ]
    return torch.cat(parts)


def _others(labels: Tensor, sources: Tensor, generator: torch.Generator) -> Tensor:
    """(B,) for each label the position of a source with another one, drawn at random."""
    found = []
    for label in labels.tolist():
        other = (sources != label).nonzero().flatten()
        if not len(other):
            raise ModelEditError("there is no image of another class to take a texture from")
        found.append(other[torch.randint(len(other), (1,), generator=generator)])
    return torch.cat(found)
