"""Responses of filters by hand: which images a filter answers to most and least."""

from __future__ import annotations

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.models.vision_transformer import Attention
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from modeledit.data import Split
from modeledit.errors import ModelEditError
from modeledit.responses import Probe, _Leaders, extremes
from modeledit.runtime import Runtime
from modeledit.toys import images, net
from modeledit.types import Unit
from modeledit.units import survey


class Tiny(nn.Module):
    """A 1x1 convolution with weights 1 and -2, then a classifier."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([1.0, -2.0]).reshape(2, 1, 1, 1))

    def forward(self, x):
        return self.head(F.relu_(self.conv(x)).mean((2, 3)))


def tiny_split():
    # Means 1, 2, 1 and 9; maxima 4, 2, 1 and 9.
    pixels = torch.tensor([[4.0, 0, 0, 0], [2, 2, 2, 2], [1, 1, 1, 1], [9, 9, 9, 9]])
    return Split.of(TensorDataset(pixels.reshape(4, 1, 2, 2), torch.tensor([0, 0, 1, 1])))


def read(model, units, shown, reading="mean"):
    """(B, units)"""
    model.eval()
    probe = Probe(model, survey(model, shown[:1]), units, reading)
    with torch.no_grad(), probe.watching():
        model(shown)
        return probe.read()


@pytest.mark.parametrize(
    ("reading", "most", "least"),
    [
        # The first filter sees the pixels; of the images 0 and 2 with mean 1 the earlier one leads.
        ("mean", [(3, 9.0), (1, 2.0), (0, 1.0)], [(0, 1.0), (2, 1.0), (1, 2.0)]),
        ("max", [(3, 9.0), (0, 4.0), (1, 2.0)], [(2, 1.0), (1, 2.0), (0, 4.0)]),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_extremes_by_hand(reading, most, least, batch_size):
    model, split = Tiny().eval(), tiny_split()
    units = [Unit("conv", 1), Unit("conv", 0)]
    probe = Probe(model, survey(model, split.example()), units, reading)
    runtime = Runtime(batch_size=batch_size)
    second, first = extremes(model, split, probe, 3, runtime)
    assert ([*first.most], [*first.least]) == (most, least)
    # The other filter is the pixels times -2, read before the in-place activation that follows.
    assert second.most[0].response == (0.0 if reading == "max" else -2.0)
    assert second.least[0] == (3, -18.0)
    assert runtime.meter.images == 4


def test_a_response_is_what_the_norm_makes_of_it():
    model, shown = net("norm").eval(), images()[:5][0]
    model.bn1.eps = 0.5
    expected = model.bn1(model.conv1(shown))
    found = read(model, [Unit("conv1", 3), Unit("conv1", 0)], shown, "max")
    torch.testing.assert_close(found, expected.amax((2, 3))[:, [3, 0]])


def test_a_norm_with_an_activation_of_its_own_is_read_before_it():
    model = timm.create_model("test_byobnet", num_classes=3, in_chans=1).eval()
    shown = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    found = read(model, [Unit("stem.conv", i) for i in range(24)], shown)
    norm = model.stem.bn
    raw = model.stem.conv(shown)
    expected = F.batch_norm(
        raw, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    )
    torch.testing.assert_close(found, expected.mean((2, 3)))
    assert (found < 0).any()


def test_calls_of_a_shared_layer_are_one_map():
    model, shown = net("shared").eval(), images()[:5][0]
    first = model.again(F.relu(model.stem(shown)))
    second = model.again(F.relu(first))
    expected = (first.mean((2, 3)) + second.mean((2, 3))) / 2
    torch.testing.assert_close(read(model, [Unit("again", 2)], shown), expected[:, [2]])


def test_a_head_answers_with_the_root_mean_square_of_its_channels():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn, self.head = Attention(6, num_heads=2), nn.Linear(6, 3)

        def forward(self, x):
            return self.head(self.attn(x.flatten(1, 2)).mean(1))

    model = Attending().eval()
    shown = torch.randn(4, 1, 5, 6, generator=torch.Generator().manual_seed(0))
    seen = []
    handle = model.attn.proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(shown)
    handle.remove()
    heads = seen[0].reshape(4, 5, 2, 3)  # images, tokens, heads, channels
    expected = heads.square().mean(3).sqrt().mean(1)
    found = read(model, [Unit("attn", 0), Unit("attn", 1)], shown)
    torch.testing.assert_close(found, expected)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=1, max_size=5), min_size=1, max_size=6),
    st.integers(1, 7),
    st.booleans(),
)
def test_leaders_of_a_stream_are_those_of_the_whole(parts, count, largest):
    leaders, start = _Leaders(count, largest=largest), 0
    for part in parts:
        positions = torch.arange(start, start + len(part))
        leaders.add(torch.tensor([part], dtype=torch.float32), positions)
        start += len(part)
    whole = list(enumerate(value for part in parts for value in part))
    expected = sorted(whole, key=lambda pair: (-pair[1] if largest else pair[1], pair[0]))
    assert leaders.answers() == [tuple(expected[:count])]


def test_a_response_that_is_not_finite_is_refused():
    model = Tiny()
    model.conv.weight.data.fill_(torch.inf)
    split = tiny_split()
    probe = Probe(model.eval(), survey(Tiny(), split.example()), [Unit("conv", 0)], "mean")
    with pytest.raises(ModelEditError, match="not finite"):
        extremes(model, split, probe, 1, Runtime())
