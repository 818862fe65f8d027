"""Pinned networks against hooks that overwrite the same channels, on every architecture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import zoo
from torch import Tensor, nn

from modeledit.data import Split
from modeledit.errors import ModelEditError, ModelError
from modeledit.runtime import Runtime
from modeledit.surgery import (
    apply_to_state,
    edited,
    pins,
    record_means,
    rename,
)
from modeledit.types import EditPlan
from modeledit.units import Anatomy, Layer, survey


@pytest.mark.parametrize("values", ["mean", "zero"])
@pytest.mark.parametrize("name", zoo.CASES)
def test_a_pin_is_the_network_with_that_channel_overwritten(name: str, values: str) -> None:
    model, batch = zoo.build(name).double(), zoo.images(name).double()
    anatomy = survey(model, batch[:1])
    split: Split = zoo.Few([batch])  # type: ignore[assignment]
    means = record_means(model, split, list(anatomy.layers), Runtime())
    with torch.inference_mode():
        before = model(batch.clone())
    compared = moved = 0
    for number, layer in enumerate(anatomy.layers.values()):
        units = torch.arange(number % min(2, layer.units), layer.units, 2)
        given_values = means if values == "mean" else "zero"
        changes, left_out = pins(model, anatomy, {layer.name: units}, given_values)
        if values == "mean" and layer.pin == "zero":
            assert left_out == {layer.name: tuple(units.tolist())}
            assert changes == ()
            continue
        assert left_out == {}
        value = means[layer.name][units].double() * (values == "mean")  # (k,), heads (k, width)
        with torch.inference_mode():
            with edited(model, EditPlan(changes)):
                pinned = model(batch.clone())
            with overwritten(model, layer, units, value):
                expected = model(batch.clone())
        scale = max(1.0, float(expected.abs().max()))
        assert float((pinned - expected).abs().max()) <= 1e-6 * scale, layer.name
        compared += 1
        moved += not torch.equal(pinned, before)
    assert moved >= compared * 0.6  # or the comparison would be empty


@contextmanager
def overwritten(model: nn.Module, layer: Layer, units: Tensor, value: Tensor) -> Iterator[None]:
    """The units' own output replaced; for zero, what comes out of their norm, as zero pins act."""

    def own(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
        channels = output if layer.kind == "conv" else output.movedim(-1, 1)
        channels = channels.clone()
        channels[:, units] = value.reshape(-1, *[1] * (channels.dim() - 2))
        return channels if layer.kind == "conv" else channels.movedim(1, -1)

    def after_norm(module: nn.Module, _args: object, output: Tensor) -> Tensor:
        constant = torch.zeros(1, 1, dtype=output.dtype)
        if hasattr(module, "act"):  # timm's norms hold their activation
            constant = module.act(constant)
        output = output.clone()
        output[:, units] = constant.flatten()
        return output

    def heads(_module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        tokens = args[0].unflatten(-1, (layer.units, layer.width)).clone()
        tokens[..., units, :] = value
        return (tokens.flatten(-2),)

    module = model.get_submodule(layer.name)
    if layer.kind == "head":
        handle = module.proj.register_forward_pre_hook(heads)
    elif layer.norm is not None and not bool(value.any()):
        handle = model.get_submodule(layer.norm).register_forward_hook(after_norm)
    else:
        handle = module.register_forward_hook(own)
    try:
        yield
    finally:
        handle.remove()


def test_a_norm_pin_by_hand() -> None:
    """gamma 2, beta 0.5, mean 1, variance 4 - eps: 0.5 + 2 * (3 - 1) / 2 = 2.5."""
    model = zoo.Head(nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.BatchNorm2d(2, eps=0.25)), 2)
    norm = model.features[1]
    with torch.no_grad():
        norm.weight.fill_(2)
        norm.bias.fill_(0.5)
    norm.running_mean.fill_(1)
    norm.running_var.fill_(3.75)
    model.eval()
    anatomy = survey(model, zoo.noise(1, 3, 4, 4))
    chosen = {"features.0": torch.tensor([1, 1])}
    changes, _ = pins(model, anatomy, chosen, {"features.0": torch.tensor([9.0, 3.0])})
    assert [(c.tensor, c.scope, c.indices.tolist(), c.operand.tolist()) for c in changes] == [
        ("features.0.weight", "row", [1], [0.0]),
        ("features.1.bias", "element", [1], [2.5]),
        ("features.1.weight", "element", [1], [0.0]),
    ]


def test_pins_round_to_the_dtype_of_the_network() -> None:
    model = zoo.build("vgg")
    anatomy = survey(model, zoo.images("vgg", 1))
    means = {"features.0": torch.full((6,), 1 / 3)}
    chosen = {"features.0": torch.tensor([2])}
    bias = pins(model.half(), anatomy, chosen, means)[0][0]
    assert bias.tensor == "features.0.bias"
    assert bias.operand.tolist() == [float(np.float16(1 / 3))]
    with pytest.raises(ModelError, match=r"too large for torch\.float16"):
        pins(model, anatomy, chosen, {"features.0": torch.full((6,), 1e6)})


def test_pins_of_a_shared_module_change_it_under_all_its_names() -> None:
    model = zoo.Head(nn.Sequential(nn.Conv2d(3, 4, 1)), 4)
    model.again = model.features
    anatomy = survey(model, zoo.noise(1, 3, 4, 4))
    changes, _ = pins(model, anatomy, {"features.0": torch.tensor([0])}, "zero")
    names = [c.tensor for c in changes]
    assert names == ["again.0.bias", "again.0.weight", "features.0.bias", "features.0.weight"]
    plan = EditPlan(changes)
    state = model.state_dict()
    everywhere = apply_to_state(state, plan, source="s")
    assert not any(everywhere[n].flatten(1)[0].any() for n in names if n.endswith("weight"))
    in_file = rename(plan, model, [n for n in state if not n.startswith("features")])
    assert [c.tensor for c in in_file.changes] == names[:2]
    back = rename(in_file, model, state)
    assert back.digest() == plan.digest()


@pytest.mark.parametrize(
    ("chosen", "values", "message"),
    [
        ({"fc": [0]}, "zero", "no layer whose units"),
        ({"nope": [0]}, "zero", "no layer whose units"),
        ({"conv1": [64]}, "zero", "units 0 to 63, not 64"),
        ({"conv1": [-1, 2]}, "zero", "units 0 to 63, not -1"),
        ({"conv1": [0]}, {}, "no mean output"),
        ({"conv1": [0]}, {"conv1": [1.0, 2.0]}, "but means of shape"),
    ],
)
def test_pins_refuse(chosen: dict, values: object, message: str, resnet: Resnet) -> None:
    units = {name: torch.tensor(indices) for name, indices in chosen.items()}
    if isinstance(values, dict):
        values = {name: torch.tensor(means) for name, means in values.items()}
    with pytest.raises(ModelEditError, match=message) as caught:
        pins(*resnet, units, values)
    assert "\n" not in str(caught.value)


Resnet = tuple[nn.Module, Anatomy]


@pytest.fixture(scope="module")
def resnet() -> Resnet:
    model = zoo.build("resnet18")
    return model, survey(model, zoo.images("resnet18", 1))
