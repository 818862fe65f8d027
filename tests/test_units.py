"""Which units there are and what pins them, on networks whose answers are counted by hand."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import torchvision
import zoo
from torch import nn

from modeledit.errors import ModelError
from modeledit.units import survey


@pytest.mark.parametrize("name", zoo.CASES)
def test_classifier_layers_and_pins(name: str) -> None:
    case, model = zoo.CASES[name], zoo.build(name)
    anatomy = survey(model, zoo.images(name, 1))
    pins = Counter(layer.pin for layer in anatomy.layers.values())
    assert (anatomy.classifier, anatomy.num_classes) == (case.classifier, zoo.CLASSES)
    assert (len(anatomy.layers), pins["norm"], pins["zero"]) == (case.layers, case.norm, case.zero)
    state = model.state_dict()
    for layer in anatomy.layers.values():
        assert layer.name not in (case.classifier, None)
        assert all(
            state[w].shape[0] >= layer.first + layer.units * layer.width for w in layer.weight
        )
        assert (layer.norm is not None) == (layer.pin == "norm")
    prefix = case.classifier + "."
    assert set(anatomy.parameters) == {
        n for n, _ in model.named_parameters() if not n.startswith(prefix)
    }
    assert set(anatomy.weights) == {n for n in anatomy.parameters if _is_matrix(model, n)}


def _is_matrix(model: nn.Module, name: str) -> bool:
    owner = model.get_submodule(name.rpartition(".")[0])
    return isinstance(owner, nn.Conv2d | nn.Linear) and name.endswith("weight")


def test_densenet121_has_61_convolutions_that_nothing_pins() -> None:
    """The count for the published architecture."""
    anatomy = survey(torchvision.models.densenet121(num_classes=3), zoo.noise(1, 3, 32, 32))
    pins = Counter(layer.pin for layer in anatomy.layers.values())
    assert pins == {"zero": 61, "norm": 59}


def test_a_shared_layer_is_one_with_its_number_of_calls() -> None:
    layers = survey(zoo.build("shared"), zoo.images("shared", 1)).layers
    found = {name.removeprefix("features."): (x.pin, x.calls) for name, x in layers.items()}
    assert found == {"stem": ("norm", 1), "conv": ("zero", 2), "biased": ("bias", 2)}


def test_pins_of_branches_and_inplace() -> None:
    layers = survey(zoo.build("branches"), zoo.images("branches", 1)).layers
    pinned = {name.removeprefix("features."): layer.norm for name, layer in layers.items()}
    assert pinned == {
        "stem": None,  # two consumers
        "depthwise": "features.norm",
        "grouped": None,  # its norm, and a view
        "left.0": "features.left.1",
        "last": None,  # its norm is not affine
        "end": None,  # no norm at all
    }
    layers = survey(zoo.build("inplace"), zoo.images("inplace", 1)).layers
    assert layers["features.one"].norm == "features.norm_one"
    assert layers["features.two"].pin == "bias"  # a ReLU stands between it and its norm


def test_heads_are_the_value_rows_and_the_fused_layer_is_no_other() -> None:
    layers = survey(zoo.build("test_vit"), zoo.images("test_vit", 1)).layers
    head = layers["blocks.0.attn"]
    assert (head.kind, head.units, head.width, head.first) == ("head", 2, 32, 128)
    assert head.weight == ("blocks.0.attn.qkv.weight",)
    assert "blocks.0.attn.qkv" not in layers


def test_frozen_networks_and_their_input_are_read_alike() -> None:
    model = zoo.build("resnet18").requires_grad_(False)
    example = zoo.images("resnet18", 1)
    before = example.clone()
    expected = survey(zoo.build("resnet18"), example)
    with torch.inference_mode():
        assert survey(model, example) == expected
    assert torch.equal(example, before)
    assert not example.requires_grad


class Raises(nn.Module):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.error = error

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.body(images)
        raise self.error


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (zoo.build("vgg_bn"), None),
        (Raises(RuntimeError("first line\nsecond")), ModelError),
        (Raises(KeyboardInterrupt()), KeyboardInterrupt),
    ],
    ids=["fine", "raises", "interrupted"],
)
def test_everything_borrowed_is_given_back(model: nn.Module, expected: type | None) -> None:
    model.train()
    next(model.children()).eval()  # a mixed mode must survive
    for parameter in list(model.parameters())[::2]:
        parameter.requires_grad_(False)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    before, rng = snapshot(model), torch.get_rng_state()
    if expected is None:
        survey(model, zoo.noise(1, 3, 32, 32))
    else:
        with pytest.raises(expected) as caught:
            survey(model, torch.zeros(1, 3, 32, 32))
        assert "\n" not in str(caught.value)
    assert snapshot(model) == before
    assert torch.equal(torch.get_rng_state(), rng)


def snapshot(model: nn.Module) -> list[object]:
    modes = [
        (m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()
    ]
    asked = [(p.requires_grad, float(p.grad.sum())) for p in model.parameters()]
    return [modes, asked, {n: t.tolist() for n, t in model.state_dict().items()}]


def test_tied_tensors() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.alias = self.a
            self.b = nn.Linear(4, 4)
            self.c = nn.Linear(4, 4)
            self.c.weight = self.b.weight
            self.fc = nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.c(self.b(self.a(x.mean((2, 3))))))

    layers = survey(Tied(), zoo.noise(1, 4, 2, 2)).layers
    assert list(layers) == ["a"]  # pinning b would change c
    assert layers["a"].weight == ("a.weight", "alias.weight")
    assert layers["a"].bias == ("a.bias", "alias.bias")


def test_a_norm_after_a_linear_layer_pins_only_along_its_channels() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = nn.Linear(5, 4, bias=False)
            self.over_tokens = nn.BatchNorm1d(4)  # 4 tokens: the norm is along them
            self.flat = nn.Linear(16, 6, bias=False)
            self.norm = nn.BatchNorm1d(6)
            self.fc = nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            tokens = self.over_tokens(self.rows(x[:, 0]))
            return self.fc(self.norm(self.flat(tokens.flatten(1))))

    layers = survey(Tokens(), zoo.noise(1, 1, 4, 5)).layers
    assert (layers["rows"].pin, layers["flat"].pin) == ("zero", "norm")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Conv2d(3, 4, 3), "must return logits"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), "cannot run on an input of"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), "no convolution or linear layer with 16"),
    ],
)
def test_networks_that_are_no_classifiers(model: nn.Module, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        survey(model, torch.zeros(1, 3, 4, 4))


class Traps(nn.Module):
    """Norms that seem to be alone with a convolution; a hidden layer as wide as the head."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(3, 4, 1, bias=False)
        self.norm_first, self.norm_second = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.twice = nn.Conv2d(4, 4, 1, bias=False)
        self.norm_once = nn.BatchNorm2d(4)
        self.doubled = nn.Conv2d(4, 4, 1, bias=False)
        self.odd = Odd(4)
        self.hidden = nn.Conv2d(4, 3, 1)
        self.fc = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = self.first(x), self.second(x)
        x = self.norm_first(first) + first.relu()
        x = x + second.relu() + self.norm_second(second)
        x = self.norm_once(self.twice(x)) + self.twice(x)
        return self.fc(self.hidden(self.odd(self.doubled(x))).mean((2, 3)))


class Odd(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * 2)


def test_norms_that_must_not_pin_and_a_hidden_layer_as_wide_as_the_head() -> None:
    anatomy = survey(Traps(), zoo.noise(1, 3, 4, 4))
    assert anatomy.classifier == "fc"
    found = {name: layer.pin for name, layer in anatomy.layers.items()}
    unpinned = dict.fromkeys(("first", "second", "twice", "doubled"), "zero")
    assert found == {**unpinned, "hidden": "bias"}
