"""Pictures of filters: end to end, from scores, and bad input."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from modeledit.data import Data
from modeledit.dreams import Dreaming
from modeledit.errors import ModelEditError
from modeledit.models import LoadedModel, Preprocessing
from modeledit.pictures import OVERVIEW, save, take, to_pixels, top_units
from modeledit.runtime import Runtime
from modeledit.toys import PlantedNet, everything, images, net
from modeledit.types import Scores, Unit

PIXELS = Preprocessing((6, 6), mean=(0.5,), std=(0.25,))  # so that pixels 0..1 become -2..2
SHORT = Dreaming(steps=3)


def toy(module, channels=1):
    part = images(channels=channels)
    data = Data.of(part, part, part, class_names=["dark", "bright", "grey"])
    spread = PIXELS.for_channels(channels)
    return LoadedModel.of(module, spread, num_classes=3), data


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_end_to_end(tmp_path: Path, channels: int):
    module = net("norm")
    if channels == 3:
        module.conv1 = nn.Conv2d(3, 4, 3, padding=1, bias=False)
    model, data = toy(module, channels)
    before = everything(module)
    units = [Unit("conv2", 3), Unit("conv1", 0)]
    found = take(model, data, units, images=5, dreaming=SHORT, split="test")
    assert everything(module) == before
    assert found.source == "mean response, test split of 24"
    assert [picture.unit for picture in found.filters] == units
    picture = found.filters[0]
    assert picture.dream.shape == ((6, 6) if channels == 1 else (6, 6, 3))
    assert [e.response for e in picture.most] == sorted(e.response for e in picture.most)[::-1]
    for example in (*picture.most, *picture.least):
        assert example.class_name == ["dark", "bright", "grey"][example.position % 3]
        seen = data.test.subset([example.position]).example()[0] * 0.25 + 0.5
        assert (example.pixels == to_pixels(seen)).all()
    paths = save(found, tmp_path / "new" / "folder")
    assert [path.name for path in paths] == [OVERVIEW, "conv2-3.png", "conv1-0.png"]
    assert all(path.read_bytes()[1:4] == b"PNG" for path in paths)


def test_same_seed_same_bytes_whatever_else_is_pictured(tmp_path: Path):
    model, data = toy(net("norm"))

    def files(name, units, seed):
        found = take(model, data, units, dreaming=SHORT, runtime=Runtime(seed=seed))
        return {path.name: path.read_bytes() for path in save(found, tmp_path / name)}

    one, other = Unit("conv1", 1), Unit("conv2", 1)
    first = files("a", [one, other], 0)
    assert files("b", [one, other, one], 0) == first
    assert files("c", [one], 0)["conv1-1.png"] == first["conv1-1.png"]
    assert files("d", [one], 1)["conv1-1.png"] != first["conv1-1.png"]


def test_every_shade_comes_back():
    shades = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    spread = Preprocessing((16, 16), mean=(0.305,), std=(0.377,))
    normalised = spread(Image.fromarray(shades.numpy()))
    assert (to_pixels(normalised * 0.377 + 0.305) == shades.numpy()).all()


def test_each_filter_starts_from_noise_of_its_own():
    module = PlantedNet()
    module.conv.weight.data[:2] = 0
    model, data = toy(module)
    first, second = take(model, data, [Unit("conv", 0), Unit("conv", 1)], dreaming=SHORT).filters
    assert (first.dream != second.dream).any()


def test_top_units_run_over_the_whole_net_and_the_earlier_of_equals_leads():
    scores = Scores("filter", {"b": torch.tensor([1.0, 3.0]), "a": torch.tensor([3.0, 2.0])})
    assert list(map(str, top_units(scores, 3))) == ["b:1", "a:0", "a:1"]
    assert len(top_units(scores, 99)) == 4


def test_scores_are_shown():
    model, data = toy(net("norm"))
    scores = Scores("filter", {"conv1": torch.tensor([0.5, 0.25, 0, 0])})
    units = top_units(scores, 2)
    found = take(model, data, units, dreaming=SHORT, scores=scores)
    assert [picture.score for picture in found.filters] == [0.5, 0.25]
    assert found.filters[1].to_dict()["score"] == 0.25
    with pytest.raises(ModelEditError, match=r"no filter conv2:0"):
        take(model, data, [Unit("conv2", 0)], scores=scores)
    other = Scores("filter", scores.values, header={"model_digest": "another"})
    with pytest.raises(ModelEditError, match="another model"):
        take(model, data, units, scores=other)


@pytest.mark.parametrize(
    ("unit", "message"),
    [
        (Unit("nowhere", 0), r"no filter nowhere:0.*\(conv1, conv2, ...\)"),
        (Unit("head", 0), "none of the 2 layers"),  # the classifier's outputs are classes
        (Unit("conv1", 4), "no filter conv1:4: conv1 has 0 to 3"),
        (Unit("conv1", -1), "0 to 3"),
    ],
)
def test_filters_that_are_not_there(unit, message):
    model, data = toy(net("norm"))
    with pytest.raises(ModelEditError, match=message):
        take(model, data, [unit])


def test_other_bad_input():
    model, data = toy(net("norm"))
    with pytest.raises(ModelEditError, match="at least one filter"):
        take(model, data, [])
    with pytest.raises(ModelEditError, match="one image"):
        take(model, data, [Unit("conv1", 0)], images=0)
    bare = LoadedModel.of(net("norm"), num_classes=3)  # stands in with three channels
    with pytest.raises(ModelEditError, match="1 channels and the model's mean and std 3"):
        take(bare, data, [Unit("conv1", 0)])
    with pytest.raises(ModelEditError, match="per weight"):
        top_units(Scores("weight", {"w": torch.ones(2)}), 1)
    with pytest.raises(ModelEditError, match="1 or more"):
        top_units(Scores("filter", {"w": torch.ones(2)}), 0)
