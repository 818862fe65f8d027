"""The end of a network: the same bits as the whole, its share, its memory and its cost."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from zoo import build, noise

from modeledit.bench import Bench, Shown
from modeledit.data import Split
from modeledit.eval.aspects import Aspects
from modeledit.eval.gates import Limits
from modeledit.eval.predictions import predict
from modeledit.objectives.forgetting import Forgetting
from modeledit.runtime import Runtime
from modeledit.tail import Tail
from modeledit.toys import SIZE, TARGET, images, net
from modeledit.types import Change, EditPlan


def tail_of(model, names, count=12, batch_size=5, limit=2**30):
    runtime = Runtime(batch_size=batch_size)
    batches = Split.of(images(count)).batches(runtime)
    return Tail(model, names, batches, runtime, lambda _done: None, limit), runtime


def shaken(model, names):
    """The named parameters get new values."""
    for position, name in enumerate(names):
        parameter = model.get_parameter(name)
        parameter.data.add_(0.3 * noise(*parameter.shape, seed=position))


def named(name):
    return [key for key, p in net(name).named_parameters() if p.dim() > 1]


@pytest.mark.parametrize(("name", "start"), [(n, i) for n in ("linear", "norm", "shared")
                                             for i in range(len(named(n)))])  # fmt: skip
def test_logits_are_those_of_the_whole_network(name, start):
    model = net(name).eval()
    names = named(name)[start:]
    tail, runtime = tail_of(model, names)
    for _ in range(2):
        shaken(model, names)
        position = 0
        for piece in tail.pieces:
            pictures, labels = images(12)[position : position + len(piece.labels)]
            position += len(labels)
            assert torch.equal(piece.labels, labels)
            with torch.inference_mode():
                assert torch.equal(tail.logits(piece, runtime), model(pictures))
        assert position == 12


@pytest.mark.parametrize("name", ["resnet18", "branches", "shared", "vgg", "inplace"])
@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_on_other_architectures(name, part):
    """In-place activations, residual sums, shared modules; changed from the start and later on."""
    model = build(name)
    parameters = [key for key, p in model.named_parameters() if p.dim() > 1]
    names = parameters[int(part * len(parameters)) :]
    labels = torch.zeros(4, dtype=torch.int64)
    split = Split.of(torch.utils.data.TensorDataset(noise(4, 3, 32, 32), labels))
    runtime = Runtime(batch_size=2)
    tail = Tail(model, names, split.batches(runtime), runtime, lambda _done: None)
    for _ in range(2):
        shaken(model, names)
        with torch.inference_mode():
            found = torch.cat([tail.logits(piece, runtime) for piece in tail.pieces])
            whole = torch.cat([model(batch.images) for batch in split.batches(runtime)])
        assert torch.equal(found, whole)
    assert 0 < tail.share <= 1


@pytest.mark.parametrize("name", ["linear", "norm", "shared"])
def test_gradients_are_those_of_the_whole_network(name):
    model = net(name).eval()
    names = named(name)[1:]
    tail, runtime = tail_of(model, names, count=5)
    parameters = [model.get_parameter(n) for n in names]
    (piece,) = tail.pieces
    logits = tail.logits(piece, runtime, backward=True)
    found = torch.autograd.grad(logits.square().sum(), parameters)
    want = torch.autograd.grad(model(images(5)[:][0]).square().sum(), parameters)
    assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


def test_share_by_hand():
    """36 x 5 and 5 x 3 multiplications, two operations each."""
    assert tail_of(net("linear").eval(), ["hidden.weight"])[0].share == 1.0
    assert tail_of(net("linear").eval(), ["head.weight"])[0].share == 15 / (180 + 15)
    assert tail_of(net("linear").eval(), [])[0].share == 0.0


def test_the_limit_by_hand():
    """5 images of 36 float32 (they are flattened in each pass); the 5 x 5 outputs of the first
    layer where only the second changes; 4 bytes for a stand-in of each output that is not kept.
    """
    for name, needed in (("hidden.weight", 720 + 4 + 4), ("head.weight", 720 + 100 + 4)):
        for pieces in range(3):
            for spare in (0, needed - 1):
                tail, _ = tail_of(net("linear").eval(), [name], 10, 5, needed * pieces + spare)
                assert len(tail.pieces) == pieces, (name, pieces, spare)
                assert tail.taken == 5 * pieces
                assert tail.complete == (pieces == 2)


def test_a_search_through_the_end_keeps_less_than_one_from_the_start():
    held = [
        sum(p.recording.bytes for p in tail_of(net("norm").eval(), [name])[0].pieces)
        for name in ("conv1.weight", "conv2.weight", "head.weight")
    ]
    assert held[2] <= 12 * 4 * SIZE * SIZE * 4 * 2 + 64
    assert held[0] <= 12 * SIZE * SIZE * 4 + 64


def test_the_meter_counts_the_whole_once_and_then_the_share():
    tail, runtime = tail_of(net("linear").eval(), ["head.weight"])
    assert runtime.meter.images == 12
    tail.logits(tail.pieces[0], runtime)
    assert runtime.meter.images == pytest.approx(12 + 5 * 15 / 195)
    tail.logits(tail.pieces[2], runtime, backward=True)
    assert runtime.meter.images == pytest.approx(12 + (5 + 2 + 4) * 15 / 195)


class Broken(torch.utils.data.Dataset):
    """The same images, some of them unreadable."""

    def __init__(self, bad, count=23):
        self.bad, self.data = bad, images(count)
        self.targets = self.data.tensors[1].tolist()

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        if index in self.bad:
            raise OSError("truncated")
        image, label = self.data[index]
        return image, int(label)


def bench_of(split, names, limit, runtime):
    model = net("norm").eval()
    tail = Tail(model, names, split.batches(runtime), runtime, lambda _done: None, limit)
    return Shown(split, tail, runtime), model


BAD = {
    "none": (),
    "first": (0,),
    "inside": (7, 8),
    "end of a batch": (3, 4, 9),
    "a batch": (5, 6, 7, 8, 9),
    "last": (22,),
    "last batch": (20, 21, 22),
    "a batch and the last": (5, 6, 7, 8, 9, 20, 21, 22),
    "most": tuple(range(2, 23)),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("limit", [0, 1500, 2200, 3000, 2**30])
def test_every_readable_image_is_answered_once(bad, limit):
    """1500 bytes hold some of the 23 images, the others are read again."""
    runtime = Runtime(batch_size=5)
    split = Split.of(Broken(bad), "validation", max_unreadable=1.0)
    bench, model = bench_of(split, ["conv2.weight"], limit, runtime)
    held = sum(len(piece.labels) for piece in bench.tail.pieces)
    assert held == len([i for i in range(bench.tail.taken) if i not in bad])
    want = predict(model, split, Runtime(batch_size=5), "whole")
    found = bench.answers("by parts")
    assert len(found) == 23 - len(bad)
    for column in ("labels", "predicted", "confidence", "margin", "positions"):
        np.testing.assert_array_equal(getattr(found, column), getattr(want, column))
    assert split.unreadable == tuple(sorted(split.unreadable))
    assert len(split.unreadable) == len(bad)


@pytest.mark.parametrize("limit", [0, 2000, 2**30])
def test_a_batch_of_the_rest_counts_in_full(limit):
    runtime = Runtime(batch_size=5)
    bench, _ = bench_of(Split.of(images(23)), ["conv2.weight"], limit, runtime)
    kept = bench.tail.taken
    before = runtime.meter.images
    bench.answers("by parts")
    want = kept * bench.tail.share + (23 - kept)
    assert runtime.meter.images - before == pytest.approx(want)


def test_trials_leave_the_network_as_it_was():
    runtime = Runtime(batch_size=5)
    shown, model = bench_of(Split.of(images(23)), ["conv2.weight"], 2**30, runtime)
    bench = Bench(Forgetting(Limits(0.01, 0.01), Aspects(), TARGET.classes), 1.0, shown)
    before = copy.deepcopy(model.state_dict())
    first = bench.before.answers
    change = Change("conv2.weight", (4, 4, 3, 3), torch.arange(100), torch.zeros(100))
    trial = bench.trial(100, EditPlan((change,)))
    assert trial.changed_weights == 100
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    again = shown.answers("again")
    np.testing.assert_array_equal(again.margin, first.margin)
