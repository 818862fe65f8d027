"""The order in which units are pinned for a class: which of a round can be borne, agreement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from modeledit.data import Batch, Split
from modeledit.games import per_image, reading
from modeledit.gate_orders import Fade
from modeledit.gate_path import Gated, slopes
from modeledit.runtime import Runtime
from modeledit.scorers import Job
from modeledit.scorers import _retained as retained
from modeledit.scorers._games import Table
from modeledit.scorers._retained import (
    NEAR,
    RISE,
    _agreed,
    _Bench,
    _images,
    _typical,
    ranked,
    ranked_passes,
)
from modeledit.surgery import edited, pins, record_means
from modeledit.targets import ForgetClass
from modeledit.toys import images, net
from modeledit.types import EditPlan, Unit
from modeledit.units import survey

SPLIT = Split.of(images())
READ = reading(ForgetClass((1,)), "margin", SPLIT.labels, None)


class Costs(_Bench):
    """A bench where each unit raises the loss by an amount of its own, alone or with others."""

    def costing(self, costs):
        self.costs = costs
        self.asked = []
        return self

    def loss(self, pinned, limit=np.inf):
        assert limit > 1.0
        self.asked.append(list(pinned))
        return 1.0 + sum(self.costs[i] for i in pinned)


def bench(kind=_Bench, model="norm"):
    made = net(model).eval()
    anatomy = survey(made, SPLIT.example())
    layers = tuple(anatomy.layers)
    means = record_means(made, SPLIT, layers, Runtime())
    job = Job(made, dict(made.named_parameters()), anatomy, SPLIT, ForgetClass((1,)), Runtime())
    gated = Gated.of(made, anatomy, layers, means)
    fades = [Fade.of(made, gated, layer) for layer in gated.layers]
    places = np.arange(sum(layer.units for layer in gated.layers))
    return kind(job, gated, fades, _images(job, SPLIT.labels != 1, 20), places)


@pytest.mark.parametrize(
    ("costs", "taken"),
    [
        ([0.0] * 6, [4, 0, 2, 5, 1, 3]),  # all at once
        ([0.0, 0.0, 9.0, 0.0, 0.0, 0.0], [4, 0, 5, 1, 3]),  # the harmful one is found
        ([9.0] * 6, []),
        ([0.6, 0.3, 0.3, 0.3, 0.3, 0.3], [4, 0]),  # in shares of RISE: the first that fit
        ([-1.0, 0.9, 0.9, 9.0, 0.0, 0.0], [4, 0, 2, 5, 1]),  # one makes room for another
    ],
)
def test_what_can_be_borne(costs, taken):
    found = bench(Costs).costing([RISE * cost for cost in costs])
    assert found.bearable([], [4, 0, 2, 5, 1, 3]) == taken
    assert found._now == pytest.approx(1.0 + RISE * sum(costs[i] for i in taken))


def test_harm_is_counted_from_what_is_pinned_already():
    found = bench(Costs).costing([0.9 * RISE, 0.9 * RISE])
    assert found.bearable([], [0]) == [0]
    assert found.bearable([0], [1]) == [1]
    assert found.asked == [[], [0], [0, 1]]  # nothing twice


def test_checks_come_to_an_end():
    found = bench(Costs).costing([9.0, 0.0, 0.0])
    found.checks = 2
    assert found.bearable([], [0, 1, 2]) == []  # all, the first, and none for the others
    found = bench(Costs).costing([0.0, 9.0, 0.0, 0.0])
    found.checks = 4
    assert found.bearable([], [0, 1, 2, 3]) == [0]
    assert (found.checks, found.bearable([0], [2, 3])) == (0, [])


def gone(monkeypatch, margins):
    """Whether class 0 is gone, with these margins (8,)."""
    made = bench()
    wanted = _images(made.job, SPLIT.labels == 0, 8)
    monkeypatch.setattr(retained, "_margin", lambda *_: torch.tensor(margins))
    return made.gone([], wanted)


def test_a_class_is_gone_where_its_margins_lie_far_below_0(monkeypatch):
    assert gone(monkeypatch, [-3.0, -5.0] * 4)  # mean -4, standard deviation 1
    assert not gone(monkeypatch, [-2.0, -4.0] * 4)
    assert gone(monkeypatch, [-0.1] * 8)


def test_each_class_is_to_be_gone(monkeypatch):
    made = bench()
    both = _images(made.job, SPLIT.labels != 1, 16)
    monkeypatch.setattr(retained, "_margin", lambda _, labels: (labels == 2).float() - 0.5)
    assert not made.gone([], both)
    assert made.gone([], _images(made.job, SPLIT.labels == 0, 8))


@pytest.mark.parametrize("sampled", [False, True])
def test_no_more_passes_than_are_promised(sampled):
    made = bench()
    layers = made.gated.layers
    units = [Unit(layer.name, i) for layer in layers for i in range(layer.units)]
    means = record_means(made.job.model, SPLIT, [layer.name for layer in layers], Runtime())
    table = Table(tuple(layer.name for layer in layers), tuple(units), means, (), READ)
    values = np.linspace(1.0, 2.0, len(units))
    found = ranked(made.job, table, units, values, sampled=sampled)
    assert sorted(found) == pytest.approx(np.arange(1, len(units) + 1) / len(units))
    shown = int((SPLIT.labels == 1).sum())
    most = ranked_passes(shown, len(SPLIT) - shown, sampled=sampled)
    assert 0 < made.job.runtime.meter.images <= most


def test_the_loss_is_that_of_the_written_network():
    made = bench()
    job, total = made.job, 0.0
    means = record_means(job.model, SPLIT, tuple(job.anatomy.layers), Runtime())
    dead = {"conv1": torch.tensor([0]), "conv2": torch.tensor([0])}
    plan = EditPlan(pins(job.model, job.anatomy, dead, means)[0])
    with torch.no_grad(), edited(job.model, plan):
        for batch in made.others:
            logits = job.model(batch.images)
            total += float(torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum"))
    count = sum(len(b.labels) for b in made.others)
    assert made.loss([0, 4]) == pytest.approx(total / count, rel=1e-5)
    assert all((b.labels != 1).all() for b in made.others)


def test_agreement_by_hand():
    values = np.array([4.0, 4.0, -1.0, -3.0, 0.0, 2.0])
    effect = np.array([9.0, -2.0, 5.0, -1.0, 4.0, 0.0])
    # Both positive: the geometric mean. Else the lesser, and never above 0.
    assert _agreed(values, effect).tolist() == [6.0, -2.0, -1.0, -3.0, 0.0, 0.0]


@pytest.mark.parametrize("model", ["norm", "shared", "linear"])
def test_each_image_has_the_slopes_of_a_pass_of_its_own(model):
    made = bench(model=model)
    job, gated = made.job, made.gated
    theta = gated.at(NEAR * made._alive([0, 4]))

    def margin(logits, batch):
        return per_image(logits, batch.labels, "margin").sum()[None]

    found = made.slopes([0, 4], made.others)
    alone = [
        Batch(b.images[i : i + 1], b.labels[i : i + 1], b.indices[i : i + 1])
        for b in made.others
        for i in range(len(b.labels))
    ]
    for row, batch in zip(found, alone, strict=True):
        wanted = slopes(job.model, gated, theta, batch, margin, Runtime())[:, 0].numpy()
        wanted[[0, 4]] = 0.0
        np.testing.assert_allclose(row, wanted, rtol=1e-4, atol=1e-6)
    assert np.abs(found).max() > 1e-3


def test_a_loss_beyond_its_limit_is_not_summed_up_to_the_end():
    made = bench()
    job = replace(made.job, runtime=replace(made.job.runtime, batch_size=4))
    made = replace(made, job=job, others=_images(job, SPLIT.labels != 1, 20))
    meter = made.job.runtime.meter
    whole = made.loss([])
    before = meter.images
    assert made.loss([], whole) == whole
    assert meter.images - before == 16
    assert made.loss([], 0.0) > 0.0
    assert meter.images - before == 20


def test_typical_effects_by_hand():
    effects = np.zeros((20, 2))
    effects[:8, 0] = 3.0  # groups of 8, 8 and 4 images: means of 3, 0 and 0
    effects[16:, 1] = [1.0, 1.0, -1.0, -1.0]  # which cancel
    assert _typical(effects) == pytest.approx([3 / np.sqrt(3), 0.0])
