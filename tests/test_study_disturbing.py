"""Disturbed pictures: by hand, by a slow reference, from files; and what must be refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from modeledit import demo
from modeledit.data import load_data
from modeledit.errors import DataError, ModelEditError
from modeledit.models import LoadedModel, Preprocessing
from modeledit.runtime import Runtime
from modeledit.study import disturbing, foreground
from modeledit.study.transfer import Features, Recipe, grams, transfer
from modeledit.study.variants import Pictures, Scale, Sources, disturb

GENERATOR = torch.Generator().manual_seed(0)
PIXELS = torch.rand(3, 3, 12, 16, generator=GENERATOR)


def test_blur_is_scipys_gaussian() -> None:
    found = disturbing.blur(PIXELS, 1.5)
    expected = ndimage.gaussian_filter(PIXELS.numpy(), (0, 0, 1.5, 1.5), mode="nearest", radius=5)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert torch.allclose(disturbing.blur(torch.ones(1, 1, 8, 8), 2.0), torch.ones(1, 1, 8, 8))


def test_patches_change_places_and_nothing_else() -> None:
    found = disturbing.patch_shuffle(PIXELS, 4, torch.Generator().manual_seed(1))
    assert not torch.equal(found, PIXELS)

    def patches(image: torch.Tensor) -> list[bytes]:
        cut = image.unfold(1, 3, 3).unfold(2, 4, 4)  # (C, 4, 4, 3, 4)
        return sorted(cut[:, i, j].numpy().tobytes() for i in range(4) for j in range(4))

    assert [patches(image) for image in found] == [patches(image) for image in PIXELS]
    with pytest.raises(ModelEditError, match="no 4 patches"):
        disturbing.patch_shuffle(torch.zeros(1, 1, 3, 3), 4, GENERATOR)


def test_edges_of_a_step() -> None:
    step = torch.zeros(1, 3, 6, 6)
    step[..., 3:] = 0.7
    found = disturbing.edges(step)
    assert found.shape == step.shape
    assert (found[..., 2:4] < 1e-6).all()  # black along the step, white elsewhere
    assert (found[..., [0, 1, 4, 5]] == 1).all()
    assert (disturbing.edges(torch.full((1, 1, 4, 4), 0.3)) == 1).all()


def test_colours_swap() -> None:
    red = torch.tensor([1.0, 0.0, 0.2])[None, :, None, None]
    assert disturbing.colour_swap(red).flatten().tolist() == pytest.approx([0.2, 1.0, 0.0])
    assert disturbing.colour_swap(torch.tensor([[[[0.25]]]])).item() == 0.75


def test_a_bright_object_is_found() -> None:
    pixels = torch.full((1, 3, 24, 24), 0.2)
    pixels[:, :, 6:17, 8:18] = torch.tensor([0.9, 0.5, 0.1])[:, None, None]
    mask = foreground.estimate(pixels)[0]
    truth = torch.zeros(24, 24, dtype=torch.bool)
    truth[6:17, 8:18] = True
    both, either = (mask & truth).sum(), (mask | truth).sum()
    assert both / either > 0.8
    white = disturbing.whitened(pixels, mask[None])
    assert (white[0, :, 0] == 1).all()
    assert torch.equal(white[0, :, mask], pixels[0, :, mask])
    plain = foreground.estimate(torch.full((1, 3, 24, 24), 0.5))[0]
    assert 0.4 < plain.float().mean() < 0.6  # nothing to be seen: the ellipse in the middle


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for split in ("train", "test"):
            place = tmp_path / "images" / split / name
            place.mkdir(parents=True)
            for index in range(4):
                noise = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(noise).save(place / f"{index}.png")
    return tmp_path


def test_masks_are_found_by_name_and_fitted_like_the_images(folder: Path) -> None:
    preprocessing = Preprocessing((8, 8), (0.5,) * 3, (0.5,) * 3)
    split = load_data(f"folder:{folder / 'images'}", preprocessing, num_classes=2).test
    wanted = foreground.names(split)
    assert len(wanted) == 8
    masks = folder / "masks"
    for index, name in enumerate(wanted):
        place = (masks / name).with_suffix(".png")
        place.parent.mkdir(parents=True, exist_ok=True)
        array = np.zeros((16, 16), np.uint8)
        array[:, : 2 * index] = 255
        Image.fromarray(array).save(place)
    found = foreground.read_masks(masks, wanted, preprocessing)
    assert found.shape == (8, 8, 8)
    assert [int(mask[0].sum()) for mask in found] == list(range(8))
    (masks / wanted[3]).with_suffix(".png").unlink()
    with pytest.raises(DataError, match="has no mask for"):
        foreground.read_masks(masks, wanted, preprocessing)
    (masks / wanted[0]).with_suffix(".png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="cannot be read"):
        foreground.read_masks(masks, wanted, preprocessing)
    with pytest.raises(DataError, match="no folder"):
        foreground.read_masks(folder / "none", wanted, preprocessing)


def features() -> Features:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(8 * 16 * 16, 4),
        )  # fmt: skip
    loaded = LoadedModel.of(net, Preprocessing((16, 16), (0.5,) * 3, (0.5,) * 3), 4)
    return Features.of(loaded, (16, 16), Runtime())


def test_gram_matrices_by_hand() -> None:
    rows = torch.tensor([[[1.0, 2.0], [0.0, 3.0]]])  # one picture, two channels, two positions
    assert grams({"a": rows})["a"].tolist() == [[[2.5, 3.0], [3.0, 4.5]]]


def test_transfer_brings_the_texture_and_keeps_what_it_is_told_to() -> None:
    of = features()
    content, texture = PIXELS[:1, :, :, :12].repeat(1, 1, 1, 1), torch.rand(1, 3, 12, 12)

    def gap(pixels: torch.Tensor, wanted: torch.Tensor) -> float:
        pairs = zip(grams(of(pixels)).values(), grams(of(wanted)).values(), strict=True)
        return sum(float((a - b).square().sum() / b.square().sum()) for a, b in pairs)

    full = transfer(content, texture, of, Recipe(1.0, 40), Runtime())
    half = transfer(content, texture, of, Recipe(0.05, 40), Runtime())
    assert full.min() >= 0
    assert full.max() <= 1
    assert gap(full, texture) < 0.3 * gap(content, texture)
    assert gap(full, texture) < gap(half, texture)
    assert (half - content).abs().mean() < (full - content).abs().mean()
    assert torch.equal(full, transfer(content, texture, of, Recipe(1.0, 40), Runtime()))
    for bad in ({"texture": 0.0}, {"texture": 1.5}, {"steps": 0}, {"rate": 0.0}):
        with pytest.raises(ModelEditError):
            Recipe(**bad)  # type: ignore[arg-type]


def test_every_variant_of_the_demos_pictures() -> None:
    model, data = demo.load(limit=12)
    runtime = Runtime()
    scale = Scale.of(model.preprocessing, 1)
    pictures = Pictures.of(data.test, scale, runtime)
    sources = Sources(
        None, disturbing.brushwork((32, 32), 1, 0), Pictures.of(data.train, scale, runtime),
        Features.of(model, (32, 32), runtime),
    )  # fmt: skip
    recipes = {"style": (Recipe(0.5, 1),), "texture": (Recipe(0.25, 1), Recipe(1.0, 1))}
    found = disturb(pictures, disturbing.NAMES, sources, recipes, runtime)
    assert [v.name for v in found] == [
        "original", "white-background", "style", "texture 25 %", "texture 100 %", "blur",
        "patch-shuffle", "edges", "colour-swap",
    ]  # fmt: skip
    for variant in found:
        assert variant.pixels.shape == pictures.pixels.shape
        assert variant.pixels.min() >= 0
        assert variant.pixels.max() <= 1
        assert (variant.texture_labels is None) == (not variant.name.startswith("texture"))
    labels = found[3].texture_labels
    assert labels is not None
    assert (labels != pictures.labels).all()
    again = disturb(pictures, disturbing.NAMES, sources, recipes, runtime)
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(found, again, strict=True))
    back = scale.split(pictures.pixels, pictures.labels, "again")
    batch, first = next(back.batches(runtime)), next(data.test.batches(runtime))
    torch.testing.assert_close(batch.images, first.images, atol=1e-6, rtol=0)
    with pytest.raises(ModelEditError, match="1 or 3 of both"):
        Scale.of(model.preprocessing, 3)
    alone = Pictures(pictures.pixels, torch.zeros_like(pictures.labels))
    with pytest.raises(ModelEditError, match="no image of another class"):
        disturb(alone, ("texture",), Sources(None, sources.style, alone, sources.features),
                recipes, runtime)  # fmt: skip
