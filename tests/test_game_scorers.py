"""Scorers that play games: values by hand and by exact enumeration, pins, options, resuming."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import permutations

import numpy as np
import pytest
import torch

from modeledit import plugins
from modeledit.checkpoint import save_scores
from modeledit.data import Split
from modeledit.errors import DataError, ModelEditError
from modeledit.games import per_image
from modeledit.gate_orders import pilot_passes
from modeledit.runtime import Runtime
from modeledit.scorers import neuron_shapley
from modeledit.scorers._watching import leaders
from modeledit.shapley import Estimate
from modeledit.shapley.running import Budget, SerialPool
from modeledit.surgery import apply, edited, pins
from modeledit.targets import Accuracy, AttackSuccess, ForgetClass, GroupRecall
from modeledit.toys import TARGET, fingerprint, images, net
from modeledit.types import EditPlan, Unit
from modeledit.units import survey

NAMES = ("gate-ig", "leave-one-out", "neuron-shapley")
SPLIT = Split.of(images())


def score(name, target=TARGET, model="norm", split=SPLIT, runtime=None, **options):
    if name == "neuron-shapley" and (runtime is None or runtime.budget is None):
        options.setdefault("evaluations", 40)
    scorer = plugins.create("scorers", name, options)
    return scorer(net(model), split, target, runtime or Runtime(batch_size=16))


def margin(model, dead, constants, target=TARGET):
    """The mean margin of the target's images in the written network."""
    model = model.eval()
    plan = EditPlan(pins(model, survey(model, SPLIT.example()), dead, constants)[0])
    shown = SPLIT.where(target.mask(SPLIT.labels))
    with torch.no_grad(), edited(model, plan):
        found = [per_image(model(b.images), b.labels, "margin") for b in shown.batches(Runtime())]
    return torch.cat(found).mean().item()


def test_leave_one_out_is_what_the_written_network_loses():
    scores = score("leave-one-out")
    whole = margin(net("norm"), {}, scores.pins)
    for layer in ("conv1", "conv2"):
        losses = [
            whole - margin(net("norm"), {layer: torch.tensor([i])}, scores.pins) for i in range(4)
        ]
        assert scores.raw[layer].tolist() == pytest.approx(losses, rel=1e-4, abs=1e-6)
    assert scores.header["evaluations"] == 9
    assert scores.header["images"] == {"class:1": 8}


def test_gate_ig_in_orders_takes_the_pilots_passes_more():
    straight, orders = (score("gate-ig", path=path) for path in ("straight", "orders"))
    more = orders.header["passes"] - straight.header["passes"]
    assert 0 < more <= pilot_passes(straight.header["passes"])
    assert not torch.equal(orders.raw["conv2"], straight.raw["conv2"])


def test_shapley_values_are_exact_where_every_order_is_walked():
    scores = score("neuron-shapley", layers="conv2", evaluations=300, estimator="permutation")
    want = np.zeros(4)
    worth = {
        key: margin(net("norm"), {"conv2": torch.tensor(key, dtype=torch.int64)}, scores.pins)
        for key in {tuple(sorted(p[:k])) for p in permutations(range(4)) for k in range(5)}
    }
    for order in permutations(range(4)):
        for place, player in enumerate(order):
            before, after = sorted(order[:place]), sorted(order[: place + 1])
            want[player] += (worth[tuple(before)] - worth[tuple(after)]) / 24
    found, width = scores.raw["conv2"].numpy(), scores.half_width["conv2"].numpy()
    assert (np.abs(found - want) <= 2 * width + 1e-6).all()
    assert found.sum() == pytest.approx(worth[()] - worth[(0, 1, 2, 3)], rel=1e-4)
    np.testing.assert_allclose(found, want, atol=0.05 * np.abs(want).max())
    assert scores.raw["conv1"].abs().max() == 0  # no players
    assert scores.half_width["conv1"].min() == torch.finfo(torch.float32).max


@pytest.mark.parametrize(
    "estimator", ["permutation", "antithetic", "cmcs", "tmab", "racing", "leverage-top"]
)
def test_estimators_agree(estimator):
    own = {"k": 3} if estimator in ("tmab", "racing", "leverage-top") else {}
    options = {"evaluations": 250, "metric": "probability", "selective": False}
    scores = score("neuron-shapley", estimator=estimator, **options, **own)
    peer = score("gate-ig", metric="probability", selective=False)
    found, want = (torch.cat(list(s.raw.values())) for s in (scores, peer))
    torch.testing.assert_close(found, want, rtol=0, atol=0.2 * want.abs().max().item())
    assert scores.header["evaluations"] <= 250


@pytest.mark.parametrize("name", NAMES)
def test_the_scored_network_is_the_written_one(name):
    scores = score(name)
    assert set(scores.pins) == {"conv1", "conv2"}
    plan = plugins.create("editors", "mean-ablate")(scores, 2, net("norm"), SPLIT)
    written = apply(net("norm"), plan).eval()
    chosen = {layer: torch.tensor(units) for layer, units in plan.units.items()}
    found = margin(net("norm"), chosen, scores.pins)
    assert margin(written, {}, scores.pins) == pytest.approx(found, abs=1e-7)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["mean", "beta", "zero"])
def test_values_of_pins(name, value):
    scores = score(name, value=value)
    assert ("pins" in scores.header) == bool(scores.pins) == (value != "zero")
    if value == "beta":
        torch.testing.assert_close(scores.pins["conv1"], net("norm").bn1.running_mean)
    linear = score(name, value=value, model="linear")
    if value == "beta":
        torch.testing.assert_close(linear.pins["hidden"], net("linear").hidden.bias.detach())


def with_groups():
    split = Split.of(images())
    split.groups = np.where(np.arange(len(split)) % 4 == 0, "b", "a")
    return split


@pytest.mark.parametrize("name", NAMES)
def test_orientation(name):
    everything = score(name, Accuracy(), metric="margin")
    attack = score(name, AttackSuccess(), metric="margin")
    group = score(name, GroupRecall(), split=with_groups(), metric="margin")
    for layer in ("conv1", "conv2"):
        assert torch.equal(everything.values[layer], everything.raw[layer])
        assert torch.equal(attack.values[layer], everything.values[layer])
        assert torch.equal(group.values[layer], -group.raw[layer])
    assert group.header["images"] == {"group a": 18, "group b": 6}
    assert everything.header["images"] == {"accuracy": 24}


def test_a_class_is_ranked_by_effect_against_harm():
    plain = score("gate-ig", selective=False)
    scores = score("gate-ig")
    ranks = torch.cat(list(scores.values.values()))
    assert sorted(ranks.tolist()) == pytest.approx([k / 8 for k in range(1, 9)])
    assert fingerprint(plain) != fingerprint(scores)
    for layer in ("conv1", "conv2"):
        assert torch.equal(plain.values[layer], scores.raw[layer])
    everyone = ForgetClass((0, 1, 2))  # nothing is left to retain
    scores = score("gate-ig", everyone)
    assert torch.equal(scores.values["conv1"], scores.raw["conv1"])


def test_other_scorers_refuse_what_they_cannot_score():
    for target in (GroupRecall(), AttackSuccess()):
        with pytest.raises(ModelEditError, match=f"peps cannot score for {target}"):
            score("peps", target)
    with pytest.raises(ModelEditError, match=r"a budget is for scorers that sample, .* gate-ig"):
        score("gate-ig", runtime=Runtime(budget=Budget(5)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("neuron-shapley", {"estimator": "x"}, "estimator='x' is not known"),
        ("neuron-shapley", {"metric": "f1"}, "metric='f1' is not known: use one of auto, accuracy"),
        ("neuron-shapley", {"images": 0}, "images=0 is not allowed"),
        ("neuron-shapley", {"evaluations": 1}, "evaluations=1 is not allowed"),
        ("neuron-shapley", {"value": "x"}, "value='x' is not known"),
        ("neuron-shapley", {"prior": 1}, "prior=1 is not known"),
        ("neuron-shapley", {"k": 3, "estimator": "cmcs"}, "cmcs has no option 'k': it has delta"),
        ("neuron-shapley", {"truncation": 0.2, "estimator": "cmcs"}, "no option 'truncation'"),
        ("gate-ig", {"metric": "accuracy"}, "metric='accuracy' is not known: use one of margin"),
        ("gate-ig", {"steps": 0}, "steps=0 is not allowed"),
        ("gate-ig", {"path": "x"}, "path='x' is not known: use one of straight, orders"),
        ("gate-ig", {"path": "orders", "steps": 3}, "steps=3 would leave half of an order out"),
        ("gate-ig", {"selective": 2}, "selective=2 is not known"),
        ("leave-one-out", {"calibration": 0}, "calibration=0 is not allowed"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(ModelEditError, match=message):
        plugins.create("scorers", name, options)


def test_bad_combinations():
    with pytest.raises(ModelEditError, match="k=8 of 8 units is no choice"):
        score("neuron-shapley", estimator="tmab", k=8, metric="accuracy")
    with pytest.raises(ModelEditError, match="need the range of a marginal, and margin has none"):
        score("neuron-shapley", estimator="tmab", k=2, metric="margin")
    with pytest.raises(ModelEditError, match="layers='nope' fits no layer"):
        score("leave-one-out", layers="conv1,nope")
    with pytest.raises(DataError, match="target group needs groups"):
        score("neuron-shapley", GroupRecall())
    with pytest.raises(ModelEditError, match="gate-ig needs slopes"):
        score("gate-ig", GroupRecall("worst"), split=with_groups())


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path):
    options = {"estimator": "permutation", "wave": 2}
    whole = score("neuron-shapley", runtime=Runtime(budget=Budget(60)), **options)
    kept = tmp_path / "s.partial"
    for budget in (25, 60):
        runtime = Runtime(budget=Budget(budget), resume=kept)
        found = score("neuron-shapley", runtime=runtime, **options)
    assert fingerprint(found) == fingerprint(whole)
    assert found.header["evaluations"] == whole.header["evaluations"] <= 60
    content = kept.read_bytes()
    for change in ({"target": ForgetClass((2,))}, {"model": "shared"}, {"images": 3}):
        with pytest.raises(ModelEditError, match=r"s\.partial"):
            score("neuron-shapley", runtime=runtime, **options, **change)
    assert kept.read_bytes() == content


class Notes:
    """A progress that remembers."""

    def __init__(self):
        self.done, self.lines = 0, []

    @contextmanager
    def stage(self, name, total):  # noqa: ARG002
        def tick(done):
            self.done += done if name == "Shapley values" else 0

        yield tick

    def status(self, text):
        self.lines.append(text)


def test_progress_shows_the_leaders():
    notes = Notes()
    scores = score("neuron-shapley", runtime=Runtime(progress=notes), evaluations=100)
    assert notes.done == scores.header["evaluations"]
    layer, unit = max(
        ((n, i) for n, raw in scores.raw.items() for i in range(4)),
        key=lambda at: scores.raw[at[0]][at[1]],
    )
    assert notes.lines[-1].startswith(f"{layer}:{unit} ")


def test_the_line_of_leaders_fits_80_columns():
    units = [Unit("stages.12.blocks.34.layer.with.a.long.name." * 3, i) for i in range(5)]
    values = np.array([[-0.1], [0.5], [0.2], [-12345.678], [0.3]])
    widths = np.array([[0.1], [0.01], [np.inf], [1e-9], [123.0]])
    estimate = Estimate(values, widths, 10, np.array([True, False, True, False, False]))
    line = leaders(estimate, units, 1.0)
    assert len(line) <= 80
    assert [part.split(" ")[0][-2:] for part in line.split(", ")[:3]] == [":1", ":4", ":2"]
    assert line.endswith(", 2 resolved")
    assert "0.5±0.01" in line
    assert leaders(estimate, units, -1.0).split(" ")[0].endswith(":3")
    assert len(leaders(Estimate(values[:1], widths[:1], 1, np.array([False])), units, 1.0)) <= 80


def test_constants_come_from_a_file_of_scores(tmp_path):
    first = score("neuron-shapley", calibration=4)
    path = tmp_path / "first.safetensors"
    save_scores(path, first)
    again = score("neuron-shapley", pins_from=str(path))
    assert again.header["pins"] == first.header["pins"]
    assert again.header["pins"] != score("neuron-shapley").header["pins"]
    with pytest.raises(ModelEditError, match=r"first\.safetensors .* which has"):
        score("neuron-shapley", model="shared", pins_from=str(path))
    with pytest.raises(ModelEditError, match="so value='zero' has no meaning"):
        score("neuron-shapley", value="zero", pins_from=str(path))


@pytest.mark.parametrize("name", ["gate-ig", "leave-one-out"])
def test_every_scorer_whose_values_add_up_takes_anothers_constants(tmp_path, name):
    path = tmp_path / "first.safetensors"
    first = score(name, calibration=4)
    save_scores(path, first)
    assert score(name, pins_from=str(path)).header["pins"] == first.header["pins"]
    assert score(name).header["pins"] != first.header["pins"]
    with pytest.raises(ModelEditError, match="so value='beta' has no meaning"):
        score(name, value="beta", pins_from=str(path))


@pytest.mark.parametrize("name", ["leave-one-out", "neuron-shapley", "stepwise-leave-one-out"])
def test_memory_is_bounded_and_changes_no_value(name):
    scores = [score(name, cache_mb=room) for room in (1024, 0)]
    for layer, values in scores[0].raw.items():
        torch.testing.assert_close(scores[1].raw[layer], values, atol=1e-6, rtol=1e-5)
    with pytest.raises(ModelEditError, match="cache_mb=-1"):
        score(name, cache_mb=-1)


@pytest.mark.parametrize("estimator", ["tmab", "racing", "leverage-top"])
def test_the_k_units_that_are_known_first_are_those_that_are_edited_first(estimator):
    scorer = plugins.create("scorers", "neuron-shapley", {"estimator": estimator, "k": 3})
    assert scorer._made("accuracy", GroupRecall()).lowest
    assert not scorer._made("accuracy", Accuracy()).lowest


def test_what_the_estimator_refuses_is_refused_before_the_prior(monkeypatch):
    monkeypatch.setattr(neuron_shapley, "gate_ig", None)  # would fail if it were asked
    with pytest.raises(ModelEditError, match=r"k=500 of .* units is no choice"):
        score("neuron-shapley", estimator="leverage-top", k=500)


def test_ray_gets_what_is_asked_for(monkeypatch):
    asked = []

    @contextmanager
    def cluster(spec, workers, ray, *, gpus):
        asked.append((workers, ray, gpus))
        yield SerialPool(spec.open())

    monkeypatch.setattr(neuron_shapley, "pool_for", cluster)
    runtime = Runtime(batch_size=16, ray="head:6379", budget=Budget(40))
    there = score("neuron-shapley", runtime=runtime)
    assert asked == [(0, "head:6379", 0.0)]
    assert fingerprint(there) == fingerprint(score("neuron-shapley"))
