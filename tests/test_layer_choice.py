"""Limits of an edit to layers: the rule, its cost, what scorers and scores made before do."""

from __future__ import annotations

import pytest
import torch

from modeledit import layer_choice, plugins
from modeledit.data import Split
from modeledit.errors import ModelEditError
from modeledit.layer_choice import Limit, by_influence, choose, most_passes, restricted
from modeledit.remarks import remarks
from modeledit.runtime import Runtime
from modeledit.scorers.layer_influence import LayerInfluence
from modeledit.toys import TARGET, images, net
from modeledit.types import EditPlan, Scores
from modeledit.units import limited, survey, within

SPLIT = Split.of(images())


def ranking(**differences):
    """Rows as the scorer has them: the control, and so the difference, decides nothing."""
    rows = ({"layer": n, "target": d, "control": 7.0, "difference": d - 7.0}
            for n, d in differences.items())  # fmt: skip
    return sorted(rows, key=lambda row: -abs(row["difference"]))


def anatomy(name="norm"):
    return survey(net(name), SPLIT.example())


@pytest.mark.parametrize(
    ("differences", "wanted"),
    [
        ({"a": 4.0, "b": 3.0, "c": 3.0}, ("a", "b")),  # 4 of 10 are too few, 7 will do
        ({"a": 5.0, "b": 3.0, "c": 2.0}, ("a",)),  # just half
        ({"a": -9.0, "b": 1.0, "c": 3.0}, ("c",)),  # what works against the target counts nothing
        ({"b": 1.0, "a": 1.0}, ("a",)),  # ties by name
    ],
)
def test_the_fewest_layers_with_half_of_the_positive_influence(differences, wanted):
    assert by_influence(ranking(**differences)).layers == wanted


def test_no_layer_in_favour_is_refused():
    with pytest.raises(ModelEditError, match="through no layer do the target's images help"):
        by_influence(ranking(a=-1.0, b=0.0))


def test_auto_is_the_scorer_and_says_what_it_took():
    runtime = Runtime(batch_size=5)
    limit = choose("auto", net("norm"), SPLIT, TARGET, runtime)
    rows = LayerInfluence()(net("norm"), SPLIT, TARGET, Runtime(batch_size=5)).header["layers"]
    assert limit.layers == by_influence(rows).layers
    assert limit.passes == round(runtime.meter.images) > 0
    assert limit.passes <= most_passes("auto", 8, 16, len(anatomy().parameters))
    assert most_passes(("conv1",), 8, 16, 9) == most_passes(None, 8, 16, 9) == 0


def test_names_stand_for_what_lies_beneath():
    assert within("a.b.weight", ["a"])
    assert within("a", ["a"])
    assert not within("ab.weight", ["a"])
    few = limited(anatomy(), ["conv2", "bn1"])
    assert list(few.layers) == ["conv2"]
    assert few.weights == ("conv2.weight",)
    assert few.parameters == ("bn1.weight", "bn1.bias", "conv2.weight")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["conv3"], "'conv3' is no editable layer: the network has 2, such as conv1, conv2"),
        (["head"], "'head' is no editable layer.*the classifier head is never edited"),
        ([], r"layers=\[\] is not allowed: give auto or a list of names"),
        ("conv1", "layers='conv1' is not allowed"),
    ],
)
def test_bad_layers_are_refused_by_name(layers, message):
    with pytest.raises(ModelEditError, match=message):
        limited(anatomy(), choose(layers, net("norm"), SPLIT, TARGET, Runtime()).layers)


@pytest.mark.parametrize("name", plugins.names("scorers"))
def test_every_scorer_leaves_other_layers_alone(name):
    cls = plugins.load("scorers", name)
    for granularity in cls.granularities:
        scorer = cls(granularity=granularity)
        found = scorer(net("norm"), SPLIT, TARGET, Runtime(batch_size=5), ["conv2"])
        assert set(found.values) == {"conv2" if granularity == "filter" else "conv2.weight"}


def test_scores_made_before_lose_the_other_layers():
    tensors = {"conv1": torch.ones(4), "conv2": torch.ones(4)}
    scores = Scores("filter", tensors, dict(tensors), {"seed": 3}, pins=dict(tensors))
    few = restricted(scores, Limit(("conv2",), "named"), anatomy())
    assert [set(part) for part in (few.values, few.raw, few.pins)] == [{"conv2"}] * 3
    assert few.header["seed"] == 3
    assert few.header[layer_choice.KEY] == {"layers": ["conv2"], "rule": "named", "passes": 0}
    with pytest.raises(ModelEditError, match="no scored layer is among bn1"):
        restricted(scores, Limit(("bn1",), "named"), anatomy())


def test_an_order_of_editing_cannot_be_cut():
    scores = Scores("weight", {"conv1.weight": torch.ones(4, 1, 3, 3)}, header={"steps": [1, 2]})
    with pytest.raises(ModelEditError, match="give the layers when scoring"):
        restricted(scores, Limit(("conv1",), "named"), anatomy())


def test_the_report_names_the_layers_and_the_cost():
    limit = Limit(("a", "b", "c", "d", "e", "f"), "auto: why", 1234)
    (line,) = remarks(EditPlan((), header={"scores": limit.header()}))
    assert "only a, b, c, d, e and 1 more" in line
    assert "auto: why, 1,234 forward-equivalents" in line
    assert remarks(EditPlan(())) == ()
