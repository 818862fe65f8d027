"""Every option of PEPS is read, and what makes no sense is refused by name."""

from __future__ import annotations

import pytest
import torch

from modeledit.data import Split
from modeledit.errors import ModelEditError
from modeledit.runtime import Runtime
from modeledit.scorers.peps import Peps
from modeledit.targets import Accuracy, ForgetClass
from modeledit.toys import TARGET, images, net


def score(model=None, target=TARGET, **options):
    options = {"selective": False, "inputs": 4, "samples": 2, "eps": 0.1, **options}
    return Peps(**options)(model or net("norm"), Split.of(images()), target, Runtime())


def test_bn_mode_train_uses_batch_statistics():
    evaluated = score(expectation="batch", measure="gradient-variance")
    trained = score(expectation="batch", measure="gradient-variance", bn_mode="train")
    assert not torch.equal(evaluated.values["conv1.weight"], trained.values["conv1.weight"])
    # A net without BatchNorm is the same in both modes.
    linear = [
        score(net("linear"), expectation="batch", measure="gradient-variance", bn_mode=mode)
        for mode in ("eval", "train")
    ]
    assert torch.equal(linear[0].values["hidden.weight"], linear[1].values["hidden.weight"])


def test_every_option_changes_the_answer():
    base = score(measure="gradient-variance")
    for change in (
        {"f": "loss"}, {"f": "logit"}, {"expectation": "batch"}, {"ball": "cone"},
        {"neighbourhood": "tensor"}, {"inputs": 3}, {"samples": 3}, {"eps": 0.2},
        {"measure": "ig"}, {"measure": "stability"}, {"measure": "consistency"},
    ):  # fmt: skip
        other = score(**{"measure": "gradient-variance", **change})
        assert not torch.equal(base.values["conv1.weight"], other.values["conv1.weight"]), change
    assert "bn1.weight" in base.values
    assert set(score(tensors="weights").values) == {"conv1.weight", "conv2.weight"}


def test_filters_are_reduced_from_weights():
    # The draws depend on the position among the scored tensors, so score the same ones.
    weights = score(tensors="weights").values["conv2.weight"]
    by_filter = score(granularity="filter").values["conv2"]
    torch.testing.assert_close(by_filter, weights.mean((1, 2, 3)))
    summed = score(granularity="filter", reduce="sum").values["conv2"]
    torch.testing.assert_close(summed, weights.sum((1, 2, 3)))
    magnitude = score(granularity="filter", absolute=True)
    torch.testing.assert_close(magnitude.values["conv2"], weights.abs().mean((1, 2, 3)))
    torch.testing.assert_close(magnitude.raw["conv2"], by_filter)


def test_absolute_keeps_the_signed_value_beside_it():
    signed, magnitude = score(), score(absolute=True)
    assert not signed.raw
    for name, tensor in signed.values.items():
        assert torch.equal(magnitude.values[name], tensor.abs())
        assert torch.equal(magnitude.raw[name], tensor)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": -1.0}, r"eps=-1.0 is not allowed: give a finite number >= 0"),
        ({"eps": float("nan")}, r"eps=nan is not allowed"),
        ({"eps": "big"}, r"eps='big' is not allowed"),
        ({"samples": 0}, r"samples=0 is not allowed: give a whole number >= 1"),
        ({"inputs": 1.5}, r"inputs=1.5 is not allowed"),
        ({"inputs": True}, r"inputs=True is not allowed"),
        ({"retain_inputs": 0}, r"retain_inputs=0 is not allowed: give a whole number >= 1"),
        ({"replay_mb": -1}, r"replay_mb=-1 is not allowed"),
        ({"measure": "gv"}, r"measure='gv' is not known: use one of ig, gradient-variance, stab"),
        ({"f": "prob"}, r"f='prob' is not known: use one of loss, logit, margin"),
        ({"expectation": "x"}, "expectation='x' is not known"),
        ({"ball": "cube"}, "ball='cube' is not known"),
        ({"neighbourhood": "x"}, "neighbourhood='x' is not known"),
        ({"bn_mode": "x"}, "bn_mode='x' is not known"),
        ({"tensors": "x"}, "tensors='x' is not known"),
        ({"reduce": "max"}, "reduce='max' is not known"),
        ({"selective": "yes"}, "selective='yes' is not known: use True or False"),
        ({"absolute": 1}, "absolute=1 is not known"),
        ({"selective": False, "bn_mode": "train"}, "product with bn_mode=train has no meaning"),
        ({"measure": "stability"}, "measure=stability cannot be selective"),
        ({"expectation": "batch"}, "use expectation=product"),
        ({"absolute": True}, "absolute=True would hide"),
        ({"selective": False, "retain_inputs": 5}, "retain_inputs=5 is for selective=True only"),
        ({"reduce": "sum"}, "reduce=sum is for granularity=filter"),
        (
            {"selective": False, "granularity": "filter", "measure": "stability", "reduce": "sum"},
            "reduce=sum is for",
        ),
    ],
)
def test_bad_options_are_refused_by_name(options, message):
    with pytest.raises(ModelEditError, match=message) as caught:
        Peps(**options)
    assert "\n" not in str(caught.value)


def test_what_the_data_cannot_give_is_refused():
    with pytest.raises(ModelEditError, match="so none is left to retain: use selective=False"):
        Peps()(net("norm"), Split.of(images()), Accuracy(), Runtime())
    split = Split.of(images(3))
    with pytest.raises(ModelEditError, match="bn_mode=train needs at least 2 examples"):
        Peps(selective=False, expectation="batch", bn_mode="train")(
            net("norm"), split, TARGET, Runtime()
        )
    with pytest.raises(ModelEditError, match="no example of class:7"):
        Peps()(net("norm"), split, ForgetClass((7,)), Runtime())
