"""Stepwise leave-one-out: J by hand and by a slow reference, greedy against brute force."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import permutations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from modeledit import merging, plugins, search
from modeledit.data import Split
from modeledit.editors.mean_ablate import MeanAblate
from modeledit.errors import ModelEditError
from modeledit.games import per_image
from modeledit.pipeline import score as scored
from modeledit.runtime import Runtime
from modeledit.scorers import stepwise_leave_one_out
from modeledit.scorers.leave_one_out import LeaveOneOut
from modeledit.scorers.stepwise_leave_one_out import StepwiseLeaveOneOut
from modeledit.surgery import apply
from modeledit.targets import Accuracy, AttackSuccess, ForgetClass, GroupRecall
from modeledit.toys import NETS, TARGET, images, net

WORST, MEAN = GroupRecall("worst"), GroupRecall()
SPLIT = Split.of(images())


def grouped(count=24, groups="abc"):
    split = Split.of(images(count), "train")
    split.groups = np.array([groups[(i // 3) % len(groups)] for i in range(count)])
    return split


def score(target=TARGET, model=None, split=None, seed=0, retain=None, **options):
    model = net("norm") if model is None else model
    if split is None:
        split = grouped() if isinstance(target, GroupRecall) else SPLIT
    runtime = Runtime(batch_size=16, seed=seed)
    return StepwiseLeaveOneOut(**options)(model, split, target, runtime, retain=retain)


# --- against written networks ---------------------------------------------------------------------


def errors(model, width, forgotten):
    """(24,) smooth errors by full passes of a network."""
    rows, labels = images().tensors
    with torch.no_grad():
        margins = per_image(model.eval()(rows), labels, "margin").double()
    sign = torch.where(torch.isin(labels, torch.tensor(forgotten)), 1, -1)
    return torch.sigmoid(sign * margins / width).numpy()


def reference(target, anchor, now, before):
    """J of the errors, cell by cell."""
    labels = images().tensors[1].numpy()
    if isinstance(target, GroupRecall):
        masks = [grouped().groups == g for g in "abc"]
        losses, old = ([e[m].mean() for m in masks] for e in (np.array(now), np.array(before)))
        weights = np.full(3, 1 / 3)
        goal = np.mean(losses)
        if target == WORST:
            goal = 0.06 * np.log(np.mean(np.exp(np.array(losses) / 0.06)))
            prices = np.exp(np.array(old) / 0.06)
            weights = (1 - prices / prices.sum()) / 2
    else:
        masks = [labels == c for c in (0, 2)]
        goal, weights = now[labels == 1].mean(), np.full(2, 0.5)
    changes = [np.square(now - before)[m].mean() for m in masks]
    return goal + anchor * weights @ np.array(changes)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("target", [TARGET, MEAN, WORST], ids=str)
def test_each_state_is_worth_what_the_written_network_is(name, target):
    width, anchor = 0.7, 3.0
    model, forgotten = net(name), [1] if target == TARGET else []
    found = score(target, net(name), width=width, anchor=anchor, rounds=3)
    before = errors(model, width, forgotten)
    objective, steps = found.header["objective"], found.header["steps"]
    assert len(objective) == len(steps) + 1
    assert (np.diff(objective) < 0).all()
    assert steps == search.ladder(found) == list(range(1, len(steps) + 1))
    plan = MeanAblate().prepare(found, net(name), SPLIT)
    for count, value in zip([0, *steps], objective, strict=True):
        after = errors(apply(net(name), plan(count)), width, forgotten)
        assert reference(target, anchor, after, before) == pytest.approx(value, abs=2e-6)
    with pytest.raises(ModelEditError, match="order of editing"):
        plan(len(steps) + 1)


def test_the_first_round_is_leave_one_out():
    options = {"images": 24, "calibration": 24}
    stepwise = score(Accuracy(), rounds=1, anchor=0.0, width=1.0, **options)
    once = LeaveOneOut(metric="probability", **options)(
        net("norm"), SPLIT, Accuracy(), Runtime(batch_size=16)
    )
    for layer in ("conv1", "conv2"):
        torch.testing.assert_close(stepwise.raw[layer], once.raw[layer], rtol=1e-5, atol=1e-7)
    best = max((once.raw[n][i].item(), n, i) for n in once.raw for i in range(4))
    assert stepwise.values[best[1]][best[2]] == 1
    assert sum(v.sum().item() for v in stepwise.values.values()) == 1


def test_those_that_are_not_shortlisted_have_their_first_order_value():
    exact, few = (score(shortlist=s, rounds=1) for s in (8, 2))
    pairs = [(exact.raw[n][i], few.raw[n][i]) for n in few.raw for i in range(4)]
    same = [bool(torch.isclose(a, b, rtol=1e-5, atol=1e-7)) for a, b in pairs]
    assert 2 <= sum(same) < 8
    model = net("norm").eval()
    touched = LeaveOneOut(images=24)(model, SPLIT, TARGET, Runtime()).pins
    assert all(torch.equal(touched[n], few.pins[n]) for n in few.pins)


def test_units_that_were_overrated_make_room(monkeypatch):
    """Guesses of 0 are far too low; the error of those that were valued is remembered."""
    known, play = [], stepwise_leave_one_out._Play
    once = play._round

    def noted(self, number):
        taken = once(self, number)
        known.append(np.flatnonzero(self._bias).tolist())
        return taken

    monkeypatch.setattr(play, "_round", noted)
    monkeypatch.setattr(play, "_predicted", lambda self: np.zeros(len(self.units)))
    score(shortlist=2, rounds=2, anchor=0.0)
    assert known == [[0, 1], [0, 1, 2, 3]]


def test_changed_answers_of_a_class_are_dearer_than_of_a_group():
    for target, anchor in ((TARGET, 20.0), (AttackSuccess(), 20.0), (WORST, 4.0), (MEAN, 4.0)):
        found, named = score(target, rounds=2), score(target, rounds=2, anchor=anchor)
        assert found.header["objective"] == named.header["objective"]


# --- greedy -----------------------------------------------------------------------------------


class Additive(nn.Module):
    """Units that add `effects`, (units, kinds), to the margin of class 0 of images of a kind."""

    def __init__(self, effects, base):
        super().__init__()
        self.hidden = nn.Linear(len(base), len(effects))
        self.head = nn.Linear(len(effects), 2)
        with torch.no_grad():
            # What the head gives to images on which all units are silent is in pixel 0.
            self.hidden.weight.copy_(torch.tensor(effects))
            self.hidden.bias.zero_()
            self.head.weight.copy_(torch.tensor([[1.0], [0.0]]).expand(2, len(effects)))
            self.head.bias.zero_()
        self.register_buffer("base", torch.tensor(base))

    def forward(self, x):
        kinds = x.flatten(1)
        logits = self.head(self.hidden(kinds))
        return logits + torch.stack([kinds @ self.base, torch.zeros(len(x))], 1)


def kinds(labels):
    """A split of one image of each kind, with these labels."""
    rows = torch.eye(len(labels)).reshape(len(labels), 1, 1, len(labels))
    return Split.of(TensorDataset(rows, torch.tensor(labels)), "train")


def margins(effects, base, removed):
    left = [e for i, e in enumerate(effects) if i not in removed]
    return np.array(base) + np.array(left).sum(0)


def test_the_second_best_alone_is_not_the_second_best_beside_the_first():
    # Class 0 is forgotten, class 1 kept. Units 0 and 1 are the best alone, and both push class 1
    # the same way; unit 2 pushes it back.
    effects, base = [[1.2, -0.6], [1.1, -0.6], [0.9, 0.6], [0.0, 0.1]], [-3.2, -2.5]

    def worth(removed):
        error = 1 / (1 + np.exp(-margins(effects, base, removed)))  # both: class 1 errs upwards
        before = 1 / (1 + np.exp(-margins(effects, base, ())))
        return error[0] + 5 * (error - before)[1] ** 2

    options = {"value": "zero", "width": 1.0, "anchor": 5.0}
    model, split, target = Additive(effects, base), kinds([0, 1]), ForgetClass((0,))
    found = score(target, model, split, rounds=2, **options)
    alone = [worth(()) - worth((i,)) for i in range(4)]
    assert found.raw["hidden"].tolist() == pytest.approx(alone, abs=1e-6)
    assert np.argsort(alone)[::-1][:2].tolist() == [0, 1]
    order = min(permutations(range(4), 2), key=lambda pair: (worth(pair), worth(pair[:1])))
    assert found.values["hidden"].tolist() == [2, 0, 1, 0]
    assert order == (0, 2)
    walk = [worth(()), worth((0,)), worth((0, 2))]
    assert found.header["objective"] == pytest.approx(walk, abs=1e-6)
    assert worth((0, 1)) > worth((0, 2))  # what a single ranking would have taken
    one = score(target, model, split, rounds=2, shortlist=1, **options)  # slopes are exact here
    assert torch.equal(one.values["hidden"], found.values["hidden"])


def groups_of_two(effects, base):
    split = kinds([0, 1])
    split.groups = np.array(["women", "men"])
    return Additive(effects, base), split


def test_a_removal_that_trades_groups_is_passed_over():
    # Women (class 0) have the margin 0, men 3. Without unit 0 the threshold moves: women gain 2
    # and men lose 2. Without unit 1 women gain 0.5, and men nothing.
    effects, base = [[-2.0, -2.0], [-0.5, 0.0], [0.3, -0.3]], [2.2, -0.7]
    model, split = groups_of_two(effects, base)
    once = LeaveOneOut(value="zero")(model, split, WORST, Runtime())
    assert once.values["hidden"].tolist() == pytest.approx([1.0, 0.5, -0.3], abs=1e-6)
    found = score(WORST, model, split, value="zero")
    assert found.values["hidden"].tolist() == [0, 1, 0]
    traded = score(WORST, model, split, value="zero", anchor=0.0)
    assert traded.values["hidden"].argmax() == 0  # without a price on others' answers


# --- what it says, and refuses --------------------------------------------------------------------


def test_where_nothing_helps_nothing_is_edited():
    model, split = groups_of_two([[1.0, -1.0], [1.0, -1.0]], [1.0, -1.0])
    found = score(WORST, model, split, value="zero")
    assert found.header["steps"] == []
    assert search.ladder(found) == [0]
    assert not found.values["hidden"].any()


@pytest.mark.parametrize("target", [TARGET, WORST], ids=str)
def test_the_estimate_is_an_upper_bound(target):
    found = score(target, rounds=3, shortlist=2, images=9, retained=6)
    scorer = StepwiseLeaveOneOut(rounds=3, shortlist=2, images=9, retained=6)
    shown = 8 if target == TARGET else 24
    assert found.header["passes"] <= scorer.passes(shown, 24 - shown, 9)


class Notes:
    """A progress that remembers."""

    def __init__(self):
        self.stages, self.lines = [], []

    @contextmanager
    def stage(self, name, total):
        self.stages.append((name, total))
        yield lambda _done: None

    def status(self, text):
        self.lines.append(text)


def test_progress_shows_the_rounds():
    notes = Notes()
    runtime = Runtime(batch_size=16, progress=notes)
    found = StepwiseLeaveOneOut(rounds=2)(net("norm"), SPLIT, TARGET, runtime)
    assert ("rounds of removal", 2) in notes.stages
    first, last = found.header["objective"][0], found.header["objective"][-1]
    assert notes.lines[-1].startswith(f"2 pinned, J {first:.4f} -> {last:.4f}: conv")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds=0 is not allowed: give a whole number >= 1"),
        ({"shortlist": 0}, "shortlist=0 is not allowed"),
        ({"images": 1.5}, "images=1.5 is not allowed"),
        ({"retained": -1}, "retained=-1 is not allowed"),
        ({"calibration": 0}, "calibration=0 is not allowed"),
        ({"anchor": -1}, "anchor=-1 is not allowed: give a finite number >= 0"),
        ({"width": 0}, "width=0 is not allowed: give a number above 0"),
        ({"value": "x"}, "value='x' is not known: use one of mean, beta, zero"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ModelEditError, match=message):
        StepwiseLeaveOneOut(**options)


def test_refusals():
    with pytest.raises(ModelEditError, match="layers='nope' fits no layer"):
        score(layers="nope")
    with pytest.raises(ModelEditError, match="scores by filter, not by 'weight'"):
        score(granularity="weight")
    data = (images(), images(), images())
    with pytest.raises(ModelEditError, match="stepwise-leave-one-out gives no signed"):
        scored(net("norm"), data, TARGET, "stepwise-leave-one-out", keep=Accuracy())
    with pytest.raises(ModelEditError, match="do not add up over owners"):
        merging.merge([merging.Part("mine", score()), merging.Part("yours", score(seed=1))])
    assert plugins.load("scorers", "stepwise-leave-one-out") is StepwiseLeaveOneOut
