"""Scores of several owners merged: those of one run on all images, or refused."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from modeledit import pipeline
from modeledit.checkpoint import identity
from modeledit.data import Data
from modeledit.errors import ModelEditError
from modeledit.merging import UNKNOWN, Part, merge
from modeledit.scorers.gate_ig import GateIg
from modeledit.scorers.neuron_shapley import NeuronShapley
from modeledit.targets import Accuracy, ForgetClass, Target
from modeledit.toys import PlantedNet, images, net
from modeledit.types import Scores

PINS = {"conv": torch.tensor([0.5, -1.0, 2.0])}


def scores(
    values: Any = (1.0, 2.0, 3.0), count: int = 100, *, pins: Any = PINS, **changes: Any
) -> Scores:
    """One owner's scores of three filters; `changes` to the header."""
    header = {
        "scorer": "neuron-shapley",
        "options": {"layers": "", "value": "mean", "images": 1000, "estimator": "tmab"},
        "target": "class:1",
        "metric": "accuracy",
        "images": {"class:1": count},
        "units_played": 3,
        "examples": 10 * count,
        "passes": 7,
        "seed": count,
        "model_digest": "m",
        "data_digest": f"d{count}",
        "pins": identity(dict(pins)),
        **changes,
    }
    raw = {"conv": torch.tensor(values)}
    return Scores("filter", raw, raw, header, pins=pins)


def merged(*parts: Scores, weights: Any = None) -> Scores:
    return merge([Part(f"{n}.safetensors", p) for n, p in zip("abc", parts, strict=False)], weights)


def test_values_are_weighted_by_the_metrics_images() -> None:
    found = merged(scores((1.0, 0.0, -2.0), 300), scores((5.0, 0.0, 2.0), 100))
    assert found.raw["conv"].tolist() == [2.0, 0.0, -1.0]  # (300 * 1 + 100 * 5) / 400, ...
    assert found.values["conv"].tolist() == [2.0, 0.0, -1.0]
    by_hand = merged(scores((1.0, 0.0, -2.0), 300), scores((5.0, 0.0, 2.0), 100), weights=(1, 1))
    assert by_hand.raw["conv"].tolist() == [3.0, 0.0, 0.0]


def test_the_header_tells_the_parts_and_no_data() -> None:
    parts = (
        scores(count=300, data_digest="d"),
        scores(count=100, data_digest="d", options={"layers": "", "value": "mean"}),
    )
    header = dict(merged(*parts).header)
    assert "data_digest" not in header
    assert header["options"] == {"layers": "", "value": "mean"}  # what both have
    assert header["images"] == {"class:1": 400}
    assert (header["examples"], header["passes"], header["model_digest"]) == (4000, 14, "m")
    assert header["parts"] == [
        {"digest": Part("", part).digest, "weight": weight, "seed": seed}
        for part, weight, seed in zip(parts, (0.75, 0.25), (300, 100), strict=True)
    ]
    assert torch.equal(merged(*parts).pins["conv"], PINS["conv"])


def test_merged_scores_can_be_merged_again() -> None:
    one, two, three = scores((1.0, 2.0, 3.0), 10), scores((4.0, 4.0, 4.0), 20), scores(count=30)
    at_once = merged(one, two, three)
    in_turn = merged(merged(one, two), three)
    torch.testing.assert_close(at_once.raw["conv"], in_turn.raw["conv"])
    assert in_turn.header["images"] == {"class:1": 60}


def test_relative_values_are_replaced_by_the_plain_ones() -> None:
    options = {"layers": "", "value": "mean", "selective": True}
    relative = {"conv": torch.tensor([9.0, 9.0, 9.0])}
    parts = [replace(scores(count=n, options=options), values=relative) for n in (1, 2)]
    found = merged(*parts)
    assert found.values["conv"].tolist() == [1.0, 2.0, 3.0]
    assert found.header["options"]["selective"] is False


def test_units_that_lower_a_groups_recall_come_first() -> None:
    groups = {"target": "group", "images": {"group a": 50, "group b": 50}}
    found = merged(scores(**groups, seed=1), scores((3.0, 2.0, 1.0), **groups, seed=2))
    assert found.raw["conv"].tolist() == [2.0, 2.0, 2.0]
    assert found.values["conv"].tolist() == [-2.0, -2.0, -2.0]


def widths(*parts: tuple[float, int, int]) -> Tensor:
    """Merged half widths of (half width, images, seed)."""
    found = merged(
        *(replace(scores(count=n, seed=seed, examples=n), half_width={"conv": torch.full((3,), h)})
          for h, n, seed in parts)
    )  # fmt: skip
    return found.half_width["conv"]


def test_half_widths() -> None:
    assert widths((0.3, 100, 1), (0.4, 100, 2)).tolist() == pytest.approx([0.25] * 3)  # 3-4-5 / 2
    assert widths((0.3, 100, 1), (0.4, 100, 1)).tolist() == pytest.approx([0.35] * 3)  # same draws
    assert widths((0.3, 300, 1), (0.4, 100, 2)).tolist() == pytest.approx(
        [math.hypot(9, 4) / 40] * 3
    )
    assert widths((0.3, 100, 1), (UNKNOWN, 100, 2)).tolist() == [UNKNOWN] * 3
    one = replace(scores(), half_width={"conv": torch.ones(3)})
    assert merged(one, scores(count=3)).half_width == {}


def test_half_widths_of_what_was_merged_before() -> None:
    def part(half: float, count: int, seed: int) -> Scores:
        made = scores(count=count, seed=seed)
        return replace(made, half_width={"conv": torch.full((3,), half)})

    first = merged(part(0.3, 100, 1), part(0.4, 100, 2))  # 0.25 on 200 images
    other = merged(first, part(0.25, 200, 3))
    assert other.half_width["conv"].tolist() == pytest.approx([math.hypot(0.125, 0.125)] * 3)
    same = merged(first, part(0.25, 200, 2))  # as in the second part
    assert same.half_width["conv"].tolist() == pytest.approx([0.25] * 3)


def shapley(value: Any, players: int) -> np.ndarray:
    """By the definition, over all orders."""
    found = np.zeros(players)
    for order in itertools.permutations(range(players)):
        alive = np.zeros(players, dtype=bool)
        for player in order:
            before = value(alive)
            alive[player] = True
            found[player] += value(alive) - before
    return found / math.factorial(players)


def test_merged_is_pooled_for_a_game_on_images() -> None:
    # 40 images of 3 numbers, right where the alive filters' sum is positive
    numbers = np.random.default_rng(0).normal(0.3, 1.0, (40, 3))

    def played(rows: np.ndarray) -> Scores:
        values = shapley(lambda alive: ((rows * alive).sum(1) > 0).mean(), 3)
        return scores(values.astype(np.float32).tolist(), len(rows))

    pooled = played(numbers)
    parts = [played(rows) for rows in (numbers[:7], numbers[7:20], numbers[20:])]
    torch.testing.assert_close(merged(*parts).raw["conv"], pooled.raw["conv"], atol=1e-7, rtol=0)
    assert not torch.allclose(parts[0].raw["conv"], pooled.raw["conv"], atol=0.02)


OTHER = {"conv": torch.tensor([0.5, -1.0, 2.1])}
GROUPS = {"group a": 50, "group b": 50}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model_digest": "n"}, "b.safetensors is of another model than a.safetensors"),
        ({"pins": OTHER}, "b.safetensors was scored with other pinned constants than a.safe"),
        ({"pins": {}}, "other pinned constants"),
        ({"target": "class:2"}, "b.safetensors has target 'class:2' and a.safetensors 'class:1'"),
        ({"metric": "loss"}, "has metric 'loss'"),
        ({"scorer": "gate-ig"}, "has scorer 'gate-ig'"),
        ({"options": {"layers": "", "value": "zero"}}, "has option value 'zero'"),
        ({"options": {"layers": "conv*", "value": "mean"}}, "has option layers 'conv"),
        ({"values": (1.0, 2.0)}, "b.safetensors has other layers or units than a"),
        ({"model_digest": None}, "b.safetensors does not say which model"),
        ({"target": "group:worst"}, "b.safetensors is for group:worst"),
        ({"count": 1000}, "b.safetensors was scored on a sample of 1,000 images"),
    ],
)
def test_other_games_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ModelEditError) as caught:
        merged(scores(), scores(**{"count": 50, **changes}))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_scores_that_are_no_games_are_refused() -> None:
    peps = Scores("weight", {"w": torch.ones(2)}, header={"scorer": "peps", "target": "class:1"})
    with pytest.raises(
        ModelEditError, match=r"^b.safetensors has scores by peps, which do not add"
    ):
        merged(scores(), peps)


def test_group_means_need_the_same_shares() -> None:
    one = scores(target="group", images=GROUPS)
    other = scores(target="group", images={"group a": 30, "group b": 31}, seed=2)
    with pytest.raises(ModelEditError, match=r"^a.safetensors has another share of group a than"):
        merged(one, other)
    with pytest.raises(ModelEditError, match="another share of group"):
        merged(one, scores(target="group", images={"group a": 50}, seed=2))
    assert merged(one, other, weights=(1, 1)).header["images"] == {"group a": 80, "group b": 81}


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ((1.0,), "1 weights were given for 2 files"),
        ((1.0, 0.0), "the weight of b.safetensors is 0.0"),
        ((-1.0, 2.0), "the weight of a.safetensors is -1.0"),
        ((1.0, math.nan), "the weight of b.safetensors is nan"),
    ],
)
def test_bad_weights(weights: tuple[float, ...], text: str) -> None:
    with pytest.raises(ModelEditError, match=f"^{text}"):
        merged(scores(), scores(count=50), weights=weights)


def test_nothing_is_counted_twice() -> None:
    with pytest.raises(ModelEditError, match="hold the same scores"):
        merged(scores(), scores())
    both = merged(scores(), scores(count=50))
    with pytest.raises(ModelEditError, match=r"^c.safetensors and b.safetensors hold the same"):
        merged(scores(count=25), scores(count=50), both)
    with pytest.raises(ModelEditError, match=r"^merging takes two files .* not 1$"):
        merged(scores())


@pytest.mark.parametrize("target", [ForgetClass((1,)), Accuracy()], ids=str)
def test_two_owners_score_as_one(target: Target) -> None:
    # the same orders on each: what is left is rounding
    data, model = images(60), net("norm")
    labels, here = data.tensors[1], torch.arange(60) < 24
    scorer = NeuronShapley(
        estimator="permutation", evaluations=60, metric="margin", value="beta", selective=False
    )

    def scored(chosen: Tensor) -> Scores:
        split = TensorDataset(*(tensor[chosen] for tensor in data.tensors))
        return pipeline.score(model, Data.of(split, images(9), images(9)), target, scorer)

    pooled, parts = scored(here | ~here), [scored(here), scored(~here)]
    found = merged(*parts)
    count = int((labels == 1).sum()) if isinstance(target, ForgetClass) else 60
    assert found.header["images"] == {str(target): count}
    for layer, values in pooled.values.items():
        torch.testing.assert_close(found.values[layer], values, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(found.pins[layer], pooled.pins[layer])
    assert max(float((parts[0].values[n] - v).abs().max()) for n, v in pooled.values.items()) > 1e-3


def test_merged_scores_edit() -> None:
    scorer = GateIg(metric="probability", value="zero")
    model, rest = PlantedNet(), (images(30), images(30))

    def scored(count: int) -> Scores:
        return pipeline.score(model, Data.of(images(count), *rest), ForgetClass((1,)), scorer)

    found = merged(scored(24), scored(36))
    assert int(found.values["conv"].argmax()) == PlantedNet.UNIT
    mine = Data.of(images(24), *rest)
    assert pipeline.edit(model, mine, found, strength=1).plan.units == {"conv": (PlantedNet.UNIT,)}


def test_each_owners_own_means_are_another_game() -> None:
    scorer, model, rest = GateIg(metric="probability"), net("norm"), (images(9), images(9))
    parts = [
        pipeline.score(model, Data.of(images(count), *rest), Accuracy(), scorer)
        for count in (24, 36)
    ]
    with pytest.raises(ModelEditError, match=r"^b.safetensors was scored with other pinned const"):
        merged(*parts)
