"""The order in which units are pinned for a class: which of a round can be borne, agreement."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modeledit.data import Split
from modeledit.gate_path import Gated
from modeledit.runtime import Runtime
from modeledit.scorers import Job
from modeledit.scorers._retained import RISE, _agreed, _Bench, _images
from modeledit.surgery import edited, pins, record_means
from modeledit.targets import ForgetClass
from modeledit.toys import images, net
from modeledit.types import EditPlan
from modeledit.units import survey

SPLIT = Split.of(images())


class Costs(_Bench):
    """A bench where each unit raises the loss by an amount of its own, alone or with others."""

    def costing(self, costs):
        object.__setattr__(self, "costs", costs)
        object.__setattr__(self, "asked", [])
        return self

    def _loss(self, pinned):
        self.asked.append(list(pinned))
        return 1.0 + sum(self.costs[i] for i in pinned)


def bench(kind=_Bench, model="norm"):
    made = net(model).eval()
    anatomy = survey(made, SPLIT.example())
    layers = tuple(anatomy.layers)
    means = record_means(made, SPLIT, layers, Runtime())
    job = Job(made, dict(made.named_parameters()), anatomy, SPLIT, ForgetClass((1,)), Runtime())
    others = _images(job, SPLIT.labels != 1, 20, 4)
    return kind(job, Gated.of(made, anatomy, layers, means), others, np.arange(8))


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


def test_harm_is_counted_from_what_is_pinned_already():
    found = bench(Costs).costing([0.9 * RISE, 0.9 * RISE])
    assert found.bearable([0], [1]) == [1]
    assert found.asked == [[0], [0, 1]]


def test_the_loss_is_that_of_the_written_network():
    made = bench()
    job, total = made.job, 0.0
    means = record_means(job.model, SPLIT, tuple(job.anatomy.layers), Runtime())
    dead = {"conv1": torch.tensor([0]), "conv2": torch.tensor([1])}
    plan = EditPlan(pins(job.model, job.anatomy, dead, means)[0])
    with torch.no_grad(), edited(job.model, plan):
        for batch in made.others:
            logits = job.model(batch.images)
            total += float(torch.nn.functional.cross_entropy(logits, batch.labels, reduction="sum"))
    count = sum(len(b.labels) for b in made.others)
    assert made._loss([0, 5]) == pytest.approx(total / count, rel=1e-5)
    assert all((b.labels != 1).all() for b in made.others)


def test_agreement_by_hand():
    values = np.array([4.0, 4.0, -1.0, -3.0, 0.0, 2.0])
    effect = np.array([9.0, -2.0, 5.0, -1.0, 4.0, 0.0])
    # Both positive: the geometric mean. Else the lesser, and never above 0.
    assert _agreed(values, effect).tolist() == [6.0, -2.0, -1.0, -3.0, 0.0, 0.0]
