"""Stepwise PEPS: its first score against a slow reference, its order against the edit it plays."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from modeledit.data import Split
from modeledit.editors.zero import Zero
from modeledit.errors import ModelEditError
from modeledit.runtime import Runtime
from modeledit.scorers import Found, Job
from modeledit.scorers.stepwise_peps import StepwisePeps, last
from modeledit.surgery import apply
from modeledit.targets import Accuracy, ForgetClass
from modeledit.toys import NETS, TARGET, fingerprint, images, net

BATCH = Runtime(batch_size=5)
# All of the 8 images to forget and the 16 to retain in every round, in one group each.
EVERYTHING = {"fraction": 1.0, "share": 1.0, "step": 0.05}


@dataclass(frozen=True)
class Spy(StepwisePeps):
    """Keeps the weights of the copy that the edit was played on."""

    def run(self, job: Job) -> Found:
        found = super().run(job)
        STATES.append(copy.deepcopy(job.model.state_dict()))
        return found


STATES: list[dict[str, torch.Tensor]] = []


def score(model, target=TARGET, count=24, **options):
    scorer = StepwisePeps(**{**EVERYTHING, **options})
    return scorer(model, Split.of(images(count)), target, BATCH)


def losses(model, target, kappa=2.0, deepest=math.inf):
    """L_f, and L_r as a sum, of the images one by one, in the model's own dtype."""
    kind = next(model.parameters()).dtype
    forget, retain = [], []
    for image, label in images():
        logits = model(image[None].to(kind))[0]
        if int(label) in target.classes:
            rest = torch.cat([logits[:label], logits[label + 1 :]]).logsumexp(0)
            if logits[label] - rest <= deepest:
                forget.append(F.softplus(logits[label] - rest + kappa))
        else:
            retain.append(F.cross_entropy(logits[None], label[None]))
    return torch.stack(forget).mean(), torch.stack(retain).sum(), len(retain)


def forgotten_loss(model):
    with torch.no_grad():
        return float(losses(copy.deepcopy(model).eval(), TARGET)[0])


def reference(model, names, target, kappa, lam, deepest=math.inf):
    """The docstring's formula in float64 with the retained images as the one group."""
    model = copy.deepcopy(model).double().eval()
    parameters = [model.get_parameter(name) for name in names]
    forget, retain, count = losses(model, target, kappa, deepest)
    theta = torch.cat([p.detach().flatten() for p in parameters])
    g_forget, g_group = (
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])
        for loss in (forget, retain)
    )
    d = theta.abs() * (g_group.square() / count).sqrt()
    return (theta * g_forget + lam * theta * g_group / count) / (d + d.mean())


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("target", [TARGET, ForgetClass((0, 2))], ids=str)
@pytest.mark.parametrize(("kappa", "lam"), [(2.0, 5.0), (0.5, 0.0)])
def test_first_score_is_the_formula(name, target, kappa, lam):
    model = net(name)
    scores = score(model, target, rounds=1, kappa=kappa, lam=lam)
    weights = list(scores.raw)
    want = reference(model, weights, target, kappa, lam)
    found = torch.cat([scores.raw[weight].flatten() for weight in weights])
    torch.testing.assert_close(found, want.float(), rtol=2e-3, atol=1e-5)
    first = torch.cat([scores.values[weight].flatten() for weight in weights]).argmax()
    assert first == want.argmax()


def test_images_deeper_than_deepest_wait():
    model = copy.deepcopy(net("norm")).eval()
    margins = []
    for image, label in images():
        logits = model(image[None])[0].detach()
        if int(label) == 1:
            rest = torch.cat([logits[:label], logits[label + 1 :]]).logsumexp(0)
            margins.append(float(logits[label] - rest))
    model.get_parameter("head.bias").data[1] += 2.0 - min(margins)  # so that all are above 0
    margins = sorted(margin + 2.0 - min(margins) for margin in margins)
    deepest = (margins[2] + margins[3]) / 2
    scores = score(model, rounds=1, deepest=deepest)
    weights = list(scores.raw)
    found = torch.cat([scores.raw[weight].flatten() for weight in weights])
    want = reference(model, weights, TARGET, 2.0, 5.0, deepest)
    torch.testing.assert_close(found, want.float(), rtol=2e-3, atol=1e-5)
    other = reference(model, weights, TARGET, 2.0, 5.0)
    assert not torch.allclose(found, other.float(), rtol=2e-3, atol=1e-5)
    nobody = score(model, rounds=3, deepest=margins[0] / 2)
    assert nobody.header["steps"] == []  # all wait: there is no loss to lower


def test_groups_of_32_are_squared_apart():
    """40 retained images are two groups: E g^2 is larger than the square of the mean."""
    scores = score(net("linear"), count=60, rounds=1)
    model = copy.deepcopy(net("linear")).eval()
    data = [(x, y) for x, y in images(60) if int(y) != 1]
    split = Split.of(images(60)).where(Split.of(images(60)).labels != 1)
    parts = [b.indices for b in split.batches(Runtime(batch_size=32), shuffle=True)]
    assert [len(part) for part in parts] == [32, 8]
    names = list(scores.raw)
    parameters = [model.get_parameter(name) for name in names]
    square, mean = 0.0, 0.0
    for part in parts:
        x = torch.stack([data[i][0] for i in part.tolist()])
        y = torch.stack([data[i][1] for i in part.tolist()])
        grads = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), parameters)
        g = torch.cat([grad.flatten() for grad in grads])
        square, mean = square + g.square() / 40, mean + g / 40
    theta = torch.cat([p.detach().flatten() for p in parameters])
    forget = [(x, y) for x, y in images(60) if int(y) == 1]
    logits = model(torch.stack([x for x, _ in forget]))
    margin = logits[:, 1] - logits[:, [0, 2]].logsumexp(1)
    grads = torch.autograd.grad(F.softplus(margin + 2).mean(), parameters)
    gain = theta * torch.cat([grad.flatten() for grad in grads])
    d = theta.abs() * square.sqrt()
    want = (gain + 5 * theta * mean) / (d + d.mean())
    found = torch.cat([scores.raw[name].flatten() for name in names])
    torch.testing.assert_close(found, want, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_values_are_the_order_and_steps_are_cumulative(name):
    scores = score(net(name), rounds=6)
    steps = scores.header["steps"]
    assert scores.header["allocation"] == "global"
    assert 0 < len(steps) <= 6
    assert steps == sorted(set(steps))
    values = torch.cat([tensor.flatten() for tensor in scores.values.values()])
    ranked = values[values > 0].sort(descending=True).values
    assert ranked.tolist() == list(range(steps[-1], 0, -1))
    assert int((values == 0).sum()) == values.numel() - steps[-1]


@pytest.mark.parametrize("name", NETS)
def test_zeroing_the_first_of_them_is_the_copy_after_that_round(name):
    model = net(name)
    scores = score(model, rounds=5)
    for number, count in enumerate(scores.header["steps"], start=1):
        STATES.clear()
        spied = Spy(**{**EVERYTHING, "rounds": number})(model, Split.of(images()), TARGET, BATCH)
        assert spied.header["steps"] == scores.header["steps"][:number]
        plan = Zero()(scores, count)
        assert plan.changed_weights == count
        edited = apply(model, plan).state_dict()
        (played,) = STATES
        assert all(torch.equal(edited[key], played[key]) for key in played)
        zeros = sum(int((played[n] == 0).sum()) for n in scores.values)
        assert zeros == count


def test_a_round_zeroes_at_most_step_and_no_more_than_gain_asks_for():
    model = net("norm")
    scored = sum(tensor.numel() for tensor in score(model).values.values())
    options = {"share": 1.0, "rounds": 3, "gain": 1.0, "enough": 0.0}
    steps = score(model, step=0.3, **options).header["steps"]
    sizes = torch.tensor([0, *steps]).diff().tolist()
    assert max(sizes) == math.ceil(0.3 * math.sqrt(scored))
    all_at_once = score(model, step=1e9, **options).header["steps"]
    assert all_at_once[0] <= scored
    assert score(model, rounds=4, gain=1e-9).header["steps"] == [1, 2, 3, 4]
    assert score(model, rounds=4, step=1e-9).header["steps"] == [1, 2, 3, 4]
    loss = forgotten_loss(model)
    asked = score(model, rounds=1, step=10.0, gain=0.1, lam=0.0)
    count = asked.header["steps"][0]
    gains = gain_by_weight(model, list(asked.values))
    order = torch.cat([t.flatten() for t in asked.values.values()])
    chosen = order.argsort(descending=True)[:count]
    assert gains[chosen].sum() >= 0.1 * loss > gains[chosen[:-1]].sum()


def gain_by_weight(model, names):
    model = copy.deepcopy(model).eval()
    parameters = [model.get_parameter(name) for name in names]
    grads = torch.autograd.grad(losses(model, TARGET)[0], parameters)
    return torch.cat([(p * g).detach().flatten() for p, g in zip(parameters, grads, strict=True)])


def test_it_stops_when_enough_is_forgotten():
    model = net("linear")
    assert score(model, enough=1e9).header["steps"] == []
    start = forgotten_loss(model)
    enough = 0.95 * start
    scores = score(model, enough=enough, rounds=200, lam=0.1)
    steps = scores.header["steps"]
    assert len(steps) < 200
    after = [forgotten_loss(apply(model, Zero()(scores, count))) for count in steps]
    assert after[-1] <= enough < min([start, *after[:-1]])


def test_it_stops_when_nothing_helps():
    model = net("linear")
    nn.init.zeros_(model.hidden.weight)
    scores = score(model)
    assert scores.header["steps"] == []
    assert not any(tensor.any() for tensor in scores.values.values())


def test_only_the_end_that_holds_the_share_is_scored():
    scores = score(net("norm"), share=0.5, rounds=3)
    assert set(scores.values) == {"conv1.weight", "conv2.weight"}
    assert not scores.values["conv1.weight"].any()
    assert not scores.raw["conv1.weight"].any()
    assert scores.values["conv2.weight"].any()


def test_last_by_hand():
    sizes = {"a": torch.zeros(50), "b": torch.zeros(30), "c": torch.zeros(20)}
    found = {share: last(list("abc"), sizes, share) for share in (0.01, 0.2, 0.21, 0.5, 0.51, 1.0)}
    assert found[0.01] == found[0.2] == ["c"]
    assert found[0.21] == found[0.5] == ["b", "c"]
    assert found[0.51] == found[1.0] == ["a", "b", "c"]
    assert last(["b", "a"], sizes, 0.5) == ["a"]


def test_several_classes_are_one_behaviour():
    both = score(net("norm"), ForgetClass((0, 2)), rounds=3)
    assert both.header["target"] == "class:0,2"
    assert fingerprint(both) != fingerprint(score(net("norm"), ForgetClass((0,)), rounds=3))


@pytest.mark.parametrize("target", [Accuracy(), ForgetClass((0, 1, 2))], ids=str)
def test_somebody_must_be_retained(target):
    with pytest.raises(ModelEditError, match=f"train split shows {target}.*use another scorer"):
        StepwisePeps()(net("linear"), Split.of(images(), "train"), target)


@pytest.mark.parametrize("fraction", [0.4, 1.0])
def test_the_seed_decides(fraction):
    def found(seed, count=300):
        scorer = StepwisePeps(fraction=fraction, rounds=3, inputs=40, retain_inputs=100)
        return scorer(net("norm"), Split.of(images(count)), TARGET, Runtime(seed=seed))

    assert fingerprint(found(1)) == fingerprint(found(1))
    assert found(1).header == found(1).header
    assert fingerprint(found(1)) != fingerprint(found(2))


def test_the_estimate_bounds_what_it_took():
    runtime = Runtime()
    scorer = StepwisePeps(rounds=4, **EVERYTHING)
    scores = scorer(net("norm"), Split.of(images(90)), TARGET, runtime)
    assert 90 < runtime.meter.images <= scorer.passes(30, 60, 5)
    assert scores.header["passes"] == round(runtime.meter.images)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[(option, value) for option in ("inputs", "retain_inputs", "rounds", "along")
          for value in (0, -1, 2.5, True, "3")],
        *[("cache_mb", value) for value in (-1, 1.5)],
        *[(option, value) for option in ("kappa", "lam", "enough")
          for value in (-0.1, float("nan"), float("inf"), "1")],
        *[(option, value) for option in ("step", "deepest")
          for value in (0, -0.5, float("nan"), float("inf"), "1")],
        *[(option, value) for option in ("share", "fraction", "gain")
          for value in (0, -0.5, 1.5, float("nan"))],
    ],
)  # fmt: skip
def test_options_are_refused_by_name(option, value):
    with pytest.raises(ModelEditError, match=f"^{option}="):
        StepwisePeps(**{option: value})


@pytest.mark.parametrize("value", ["0.5", None, True])
@pytest.mark.parametrize("option", ["share", "fraction", "gain"])
def test_a_share_must_be_a_number(option, value):
    with pytest.raises(ModelEditError, match=f"^{option}="):
        StepwisePeps(**{option: value})


def test_filters_are_refused():
    with pytest.raises(ModelEditError, match="stepwise-peps scores by weight, not by 'filter'"):
        score(net("norm"), granularity="filter")


@pytest.mark.parametrize("cache_mb", [0, 1])
def test_a_cache_that_holds_no_group_is_named(cache_mb):
    wide = [nn.Flatten(), nn.Linear(36, 40_000), nn.ReLU(), nn.Linear(40_000, 2), nn.Linear(2, 3)]
    with pytest.raises(ModelEditError, match=f"cache_mb={cache_mb} does not hold.*give more"):
        score(nn.Sequential(*wide), rounds=2, cache_mb=cache_mb, share=0.01)
