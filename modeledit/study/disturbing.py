"""Disturbed copies of pictures: (B, C, H, W) in 0..1 in, the same shape and range out."""

from __future__ import annotations

import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from modeledit.errors import ModelEditError

WHITE, STYLE, TEXTURE = "white-background", "style", "texture"
CHEAP = ("blur", "patch-shuffle", "edges", "colour-swap")
NAMES = (WHITE, STYLE, TEXTURE, *CHEAP)
BLUR = 1 / 16  # deviation of the Gaussian, as a share of the shorter side
PATCHES = 4  # along a side
_STROKES = 900


def cheap(name: str, pixels: Tensor, generator: torch.Generator) -> Tensor:
    """One of CHEAP."""
    if name == "blur":
        return blur(pixels, BLUR * min(pixels.shape[2:]))
    if name == "patch-shuffle":
        return patch_shuffle(pixels, PATCHES, generator)
    if name == "edges":
        return edges(pixels)
    if name == "colour-swap":
        return colour_swap(pixels)
    raise ModelEditError(f"disturbance {name!r} is not known: use one of {', '.join(NAMES)}")


def blur(pixels: Tensor, deviation: float) -> Tensor:
    """Convolved with a Gaussian of that deviation in pixels, edges repeated."""
    reach = max(1, math.ceil(3 * deviation))
    at = torch.arange(-reach, reach + 1, dtype=pixels.dtype)
    kernel = torch.exp(-0.5 * (at / deviation) ** 2)
    kernel = (kernel / kernel.sum()).repeat(pixels.shape[1], 1, 1, 1)  # (C, 1, 1, k)
    padded = F.pad(pixels, (reach,) * 4, mode="replicate")
    across = F.conv2d(padded, kernel, groups=len(kernel))
    return F.conv2d(across, kernel.transpose(2, 3), groups=len(kernel)).clamp(0, 1)


def patch_shuffle(pixels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Cut into count x count patches that change places; what does not divide stays at the rim."""
    height, width = (side // count for side in pixels.shape[2:])
    if min(height, width) < 1:
        size = tuple(pixels.shape[2:])
        raise ModelEditError(f"pictures of {size} pixels have no {count} patches a side")
    spots = [
        (slice(down * height, (down + 1) * height), slice(right * width, (right + 1) * width))
        for down in range(count)
        for right in range(count)
    ]
    out = pixels.clone()
    for image in range(len(pixels)):
        order = torch.randperm(len(spots), generator=generator).tolist()
        for (rows, columns), source in zip(spots, order, strict=True):
            out[image, :, rows, columns] = pixels[image, :, *spots[source]]
    return out


def edges(pixels: Tensor) -> Tensor:
    """Black lines on white where the brightness changes: Sobel's gradient, each picture's full."""
    grey = pixels.mean(1, keepdim=True)
    across = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])[None, None]
    padded = F.pad(grey, (1, 1, 1, 1), mode="replicate")
    size = torch.hypot(F.conv2d(padded, across), F.conv2d(padded, across.transpose(2, 3)))
    most = size.flatten(1).amax(1).clamp_min(1e-6)[:, None, None, None]
    return (1 - size / most).expand_as(pixels).clone()


def colour_swap(pixels: Tensor) -> Tensor:
    """Red becomes green, green blue, blue red; grey pictures are turned into their negative."""
    return 1 - pixels if pixels.shape[1] == 1 else pixels.roll(1, dims=1)


def whitened(pixels: Tensor, masks: Tensor) -> Tensor:
    """White wherever the mask (B, H, W) is False."""
    return torch.where(masks[:, None], pixels, torch.ones_like(pixels))


def brushwork(size: tuple[int, int], channels: int, seed: int) -> Tensor:
    """(channels, H, W): strokes that swirl around a few centres, for want of a painting."""
    height, width = size
    scale = 8  # drawn large, so that strokes are smooth
    generator = np.random.default_rng([seed, 0x5717])
    palette = ["#12355b", "#1f6f9f", "#e8b93f", "#f3e6b3", "#3d8f6b", "#0b1a30", "#c9603b"]
    page = Image.new("RGB", (width * scale, height * scale), palette[0])
    pen = ImageDraw.Draw(page)
    centres = generator.random((3, 2)) * [page.width, page.height]
    length = 0.09 * min(page.size)
    for x, y in generator.random((_STROKES, 2)) * [page.width, page.height]:
        gaps = np.array([x, y]) - centres
        angle = np.arctan2(*gaps[np.argmin((gaps**2).sum(1))][::-1]) + np.pi / 2
        dx, dy = length / 2 * np.cos(angle), length / 2 * np.sin(angle)
        colour = palette[int(generator.integers(len(palette)))]
        pen.line((x - dx, y - dy, x + dx, y + dy), fill=colour, width=max(1, int(length / 6)))
    return to_pixels(page, size, channels)


def to_pixels(image: Image.Image, size: tuple[int, int], channels: int) -> Tensor:
    """(channels, H, W) in 0..1 of any picture, stretched to the size."""
    fitted = image.convert("RGB" if channels == 3 else "L").resize((size[1], size[0]))
    array = np.asarray(fitted, dtype=np.float32).reshape(*size, channels) / 255
    return torch.from_numpy(array.transpose(2, 0, 1).copy())
