"""Dreams with a known answer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modeledit.dreams import Dreaming, dream
from modeledit.errors import ModelEditError
from modeledit.models import Preprocessing
from modeledit.responses import Probe
from modeledit.runtime import Runtime
from modeledit.toys import PlantedNet, net
from modeledit.types import Unit
from modeledit.units import survey

PIXELS = Preprocessing((6, 6), mean=(0.5,), std=(0.25,))  # so that pixels 0..1 become -2..2


def dreamt(model, unit, dreaming, seed=0, size=(6, 6)):
    model = model.eval().requires_grad_(False)
    probe = Probe(model, survey(model, torch.zeros(1, 1, *size)), [unit], "mean")
    runtime = Runtime(seed=seed)
    found = dream(model, probe, PIXELS, size, dreaming, runtime.generator(), runtime)
    assert runtime.meter.images == 3 * dreaming.steps
    return found


def test_a_filter_for_brightness_dreams_of_white_and_its_opposite_of_black():
    # Filter 2 is 2 x, filter 0 is -x, and x goes from -2 to 2.
    white, response = dreamt(PlantedNet(), Unit("conv", 2), Dreaming(steps=40))
    torch.testing.assert_close(white, torch.ones(1, 6, 6))
    assert response == 4.0
    black, response = dreamt(PlantedNet(), Unit("conv", 0), Dreaming(steps=40))
    torch.testing.assert_close(black, torch.zeros(1, 6, 6))
    assert response == 2.0


def test_an_edge_filter_dreams_of_edges():
    model = PlantedNet()
    model.conv = nn.Conv2d(1, 4, (1, 2), bias=False)
    model.conv.weight.data.zero_()
    model.conv.weight.data[1] = torch.tensor([[[-1.0, 1.0]]])
    still, response = dreamt(model, Unit("conv", 1), Dreaming(steps=60, jitter=0, variation=0))
    # The mean of the differences along a row is the last pixel minus the first, over five.
    assert response == pytest.approx(4 / 5, abs=1e-5)
    torch.testing.assert_close(still[0, :, 0], torch.zeros(6))
    torch.testing.assert_close(still[0, :, 5], torch.ones(6))


def test_variation_and_blur_smooth_a_dream():
    def roughness(**options):
        found = dreamt(net("norm"), Unit("conv2", 1), Dreaming(steps=20, **options), size=(12, 12))
        return float(found[0].diff(dim=1).abs().mean() + found[0].diff(dim=2).abs().mean())

    rough = roughness(blur=0, variation=0)
    assert roughness(blur=0, variation=0.5) < 0.8 * rough
    assert roughness(blur=1.5, variation=0) < 0.8 * rough


def test_jitter_and_seed_change_a_dream_and_nothing_else_does():
    unit = Unit("conv2", 1)
    first = dreamt(net("norm"), unit, Dreaming(steps=5, jitter=0.4))[0]
    torch.testing.assert_close(first, dreamt(net("norm"), unit, Dreaming(steps=5, jitter=0.4))[0])
    assert not first.equal(dreamt(net("norm"), unit, Dreaming(steps=5, jitter=0))[0])
    assert not first.equal(dreamt(net("norm"), unit, Dreaming(steps=5, jitter=0.4), seed=1)[0])


def test_a_pinned_filter_has_no_dream():
    model = PlantedNet()
    model.conv.weight.data[3] = 0
    picture, response = dreamt(model, Unit("conv", 3), Dreaming(steps=20))
    assert response == 0
    assert float((picture - 0.5).abs().max()) < 0.15


@pytest.mark.parametrize("options", [{"steps": 0}, {"rate": 0}, {"jitter": 0.6}, {"blur": -1}])
def test_dreams_that_cannot_be_had(options):
    with pytest.raises(ModelEditError, match="give"):
        Dreaming(**options)
