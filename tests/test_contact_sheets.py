"""Pages of pictures, pixel by pixel."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from modeledit.contact_sheets import TILE, Row, Shot, _font, fitted, overview, page, png, scaled


def shots(count, side=4):
    generator = np.random.default_rng(0)
    blocks = generator.integers(0, 256, (count, side, side), dtype=np.uint8)
    return [Shot(block, f"class {i}", i / 3) for i, block in enumerate(blocks)]


def test_small_pictures_are_enlarged_by_whole_squares():
    (shot,) = shots(1)
    big = np.asarray(scaled(shot.pixels, 19))
    assert big.shape == (16, 16, 3)
    assert (big[::4, ::4, 0] == shot.pixels).all()
    assert (big[3::4, 3::4, 2] == shot.pixels).all()
    wide = np.zeros((100, 300, 3), np.uint8)
    assert scaled(wide, TILE).size == (96, 32)


@pytest.mark.parametrize("count", [1, 3, 6, 11])
def test_every_picture_is_on_the_page(count):
    row = Row("layer:0", "score 1", shots(1)[0], shots(count), shots(count))
    whole = np.asarray(page(row, "a caption"))[:, :, 0]
    tiles = [np.asarray(scaled(shot.pixels, TILE))[:, :, 0] for shot in row.most]
    for tile in tiles:
        rows, columns = np.nonzero(whole[: -TILE + 1, : -TILE + 1] == tile[0, 0])
        places = [(y, x) for y, x in zip(rows, columns, strict=True)
                  if (whole[y : y + TILE, x : x + TILE] == tile).all()]  # fmt: skip
        assert len(places) == 2  # among the most and among the least active ones


def test_the_overview_has_a_row_per_filter():
    row = Row("layer:0", "", shots(1)[0], shots(6), shots(6))
    one, three = overview([row], "t", "c"), overview([row] * 3, "t", "c")
    assert one.width == three.width
    pixels = np.asarray(three)
    pitch = (three.height - one.height) // 2
    first = pixels[142 : 142 + TILE]
    assert (pixels[142 + pitch : 142 + pitch + TILE] == first).all()


@pytest.mark.parametrize("text", ["x" * 90, "stages.0.blocks.1.conv:7", "a\x1b[31m\nb", ""])
def test_text_is_shortened_to_its_place(text):
    shown = fitted(text, 12, 60)
    assert _font(12).getlength(shown) <= 60
    assert shown.isprintable()
    assert shown[-1:] == text[-1:]


def test_a_file_holds_the_pixels_and_nothing_else():
    image = page(Row("l:0", "", shots(1)[0], shots(2), shots(2)), "c")
    data = png(image)
    read_back = Image.open(io.BytesIO(data))
    assert (np.asarray(read_back) == np.asarray(image)).all()
    assert read_back.info == {}
    assert data == png(image.copy())
