"""Selective scores against a slow reference, example by example, in float64."""

from __future__ import annotations

import copy

import pytest
import torch

from modeledit.data import Split
from modeledit.runtime import Runtime
from modeledit.scorers._selective import FLOOR
from modeledit.scorers.peps import Peps
from modeledit.toys import NETS, TARGET, images, net


def effects(model, weight, keep):
    """(examples, *shape) theta * gradient of the margin, one example at a time."""
    model = copy.deepcopy(model).double().eval()
    parameter = model.get_parameter(weight)
    rows = []
    for image, label in images():
        if (int(label) in TARGET.classes) != keep:
            continue
        logits = model(image[None].double())[0]
        rest = torch.cat([logits[:label], logits[label + 1 :]])
        (gradient,) = torch.autograd.grad(logits[label] - rest.logsumexp(0), parameter)
        rows.append(parameter.detach() * gradient)
    return torch.stack(rows)


def reference(forget, retain):
    typical = retain.square().mean(0).sqrt()
    return (forget.mean(0) / (typical + FLOOR * typical.mean())).float()


@pytest.mark.parametrize("name", NETS)
def test_by_weight(name):
    model = net(name)
    scores = Peps()(model, Split.of(images()), TARGET, Runtime(batch_size=5))
    for weight, found in scores.values.items():
        want = reference(effects(model, weight, True), effects(model, weight, False))
        torch.testing.assert_close(found, want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_by_filter_the_effect_is_summed_before_the_ratio(name):
    model = net(name)
    scores = Peps(granularity="filter")(model, Split.of(images()), TARGET, Runtime(batch_size=5))
    for layer, found in scores.values.items():
        forget, retain = (
            effects(model, f"{layer}.weight", keep).flatten(2).sum(2) for keep in (True, False)
        )
        torch.testing.assert_close(found, reference(forget, retain), rtol=1e-3, atol=1e-5)


def test_with_a_ball_it_averages_over_it():
    model = net("norm")
    at_0 = Peps()(model, Split.of(images()), TARGET).values["conv1.weight"]
    for neighbourhood in ("joint", "tensor"):
        options = {"neighbourhood": neighbourhood, "samples": 2}
        near = Peps(eps=1e-4, **options)(model, Split.of(images()), TARGET).values["conv1.weight"]
        far = Peps(eps=3.0, **options)(model, Split.of(images()), TARGET).values["conv1.weight"]
        torch.testing.assert_close(near, at_0, rtol=0.05, atol=0.01)
        assert not torch.allclose(far, at_0, rtol=0.05, atol=0.01)


def test_inputs_are_read():
    def first(**options):
        return Peps(**options)(net("norm"), Split.of(images()), TARGET).values["conv1.weight"]

    assert not torch.equal(first(), first(inputs=3))
    assert not torch.equal(first(), first(retain_inputs=5))
    assert set(Peps(tensors="all")(net("norm"), Split.of(images()), TARGET).values) > {"bn1.bias"}
