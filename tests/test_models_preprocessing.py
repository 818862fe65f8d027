"""Pictures to tensors, against timm's own transforms and by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
from zoo import photo

from modeledit.errors import ModelError
from modeledit.models import Preprocessing


@pytest.mark.parametrize("crop_pct", [0.875, 0.95, 1.0])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(57, 40), (40, 57), (31, 31), (32, 32)])
def test_preprocessing_is_timms(
    shape: tuple[int, int], interpolation: str, crop_pct: float
) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    reference = timm.data.create_transform(
        (3, 32, 32), interpolation=interpolation, mean=mean, std=std, crop_pct=crop_pct
    )
    ours = Preprocessing((32, 32), mean, std, crop_pct, interpolation)
    torch.testing.assert_close(ours(photo(*shape)), reference(photo(*shape)))


def test_a_picture_of_the_size_asked_for_is_not_resampled() -> None:
    exact = Preprocessing((16, 16), (0.0,) * 3, (1.0,) * 3, interpolation="bicubic")
    pixels = exact(photo(16, 16)).mul(255).round().to(torch.uint8).permute(1, 2, 0)
    np.testing.assert_array_equal(pixels.numpy(), np.array(photo(16, 16)))


def test_a_crop_of_a_picture_that_is_large_enough_is_not_resampled() -> None:
    crop = Preprocessing((64, 64), (0.0,) * 3, (1.0,) * 3, crop_pct=64 / 93)
    pixels = crop(photo(93, 93)).mul(255).round().to(torch.uint8).permute(1, 2, 0)
    np.testing.assert_array_equal(pixels.numpy(), np.array(photo(93, 93))[14:78, 14:78])


def test_colours_follow_the_number_of_channels() -> None:
    grey = Preprocessing((8, 8), (0.5,), (0.5,))
    colour = Preprocessing((8, 8), (0.5,) * 3, (0.5,) * 3)
    assert grey(photo(8, 8)).shape == (1, 8, 8)
    assert colour(photo(8, 8, "L")).shape == (3, 8, 8)
    assert torch.equal(colour(photo(8, 8, "RGBA")), colour(photo(8, 8, "RGBA").convert("RGB")))
    four = Preprocessing((8, 8), (0.5,) * 4, (0.5,) * 4)
    with pytest.raises(ModelError, match="the model takes 4"):
        four(photo(8, 8))


def test_overriding() -> None:
    own = Preprocessing((224, 224), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.875, "bicubic")
    assert own.overridden(None, None, None, None) == own
    assert own.overridden(None, None, (32, 32), None).crop_pct == 1  # a size means no crop
    assert own.overridden(None, None, (32, 32), 0.9).crop_pct == 0.9
    assert own.overridden([0.5], None, None, None).mean == (0.5,) * 3
    assert own.overridden(None, (1, 2, 3), None, None).std == (1, 2, 3)
    with pytest.raises(ModelError, match="mean has 2 values, the model takes 3"):
        own.overridden([0.1, 0.2], None, None, None)
    assert own.for_channels(1).mean == pytest.approx((0.2,))
    assert own.for_channels(4).std == pytest.approx((0.5,) * 4)
    assert Preprocessing.from_dict(json.loads(json.dumps(own.to_dict()))) == own
    with pytest.raises(ModelError, match="not complete: KeyError"):
        Preprocessing.from_dict({"size": [1, 1]})
    with pytest.raises(ModelError, match="not possible"):
        own.overridden(None, None, (0, 4), None)
    with pytest.raises(ModelError, match="'spline' is not known"):
        Preprocessing((4, 4), (0.0,), (1.0,), interpolation="spline")
