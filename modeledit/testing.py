"""What every scorer and editor promises, as test classes to inherit.

A plugin's author writes, in a file that pytest collects:

    class TestMine(ScorerContract):
        plugin = Mine

Scorers are tried on small networks: linear, convolutional with BatchNorm, with a module called
twice. Scorers that do not look at the target set `finds_planted = False`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from modeledit.data import Split
from modeledit.editors import Editor
from modeledit.runtime import Runtime
from modeledit.scorers import Scorer
from modeledit.selection import how_many
from modeledit.surgery import apply, edited
from modeledit.toys import (
    NETS,
    TARGET,
    Failing,
    PlantedNet,
    everything,
    fingerprint,
    images,
    net,
)
from modeledit.types import EditPlan, Granularity, Scores
from modeledit.units import survey

__all__ = ["EditorContract", "ScorerContract"]


class ScorerContract:
    """Inherit and set `plugin`; every granularity it offers is tried."""

    plugin: type[Scorer]
    options: Mapping[str, Any] = MappingProxyType({})
    finds_planted: bool = True

    def make(self, granularity: Granularity) -> Scorer:
        """The scorer, small enough for a few images."""
        return self.plugin(granularity=granularity, **self.options)

    def score(self, model: nn.Module, granularity: Granularity, seed: int = 0) -> Scores:
        """Scores on the small data set."""
        runtime = Runtime(batch_size=5, seed=seed)
        return self.make(granularity)(model, Split.of(images()), TARGET, runtime)

    def test_every_unit_has_a_finite_float32_score(self) -> None:
        for name in NETS:
            model = net(name)
            anatomy = survey(model, images()[0][0][None])
            for granularity in self.plugin.granularities:
                values = self.score(model, granularity).values
                if granularity == "filter":
                    want = {n: (layer.units,) for n, layer in anatomy.layers.items()}
                    assert {n: tuple(t.shape) for n, t in values.items()} == want
                else:
                    shapes = {n: tuple(p.shape) for n, p in model.named_parameters()}
                    assert set(anatomy.weights) <= set(values) <= set(anatomy.parameters)
                    assert all(tuple(t.shape) == shapes[n] for n, t in values.items())
                assert all(t.dtype == torch.float32 for t in values.values())
                assert all(bool(t.isfinite().all()) for t in values.values())

    def test_nothing_of_the_caller_is_touched(self) -> None:
        for name in NETS:
            model = net(name)
            next(model.parameters()).grad = torch.ones_like(next(model.parameters()))
            next(model.parameters()).requires_grad_(False)
            for granularity in self.plugin.granularities:
                before = everything(model)
                self.score(model, granularity)
                assert everything(model) == before

    def test_nothing_is_touched_when_the_data_breaks(self) -> None:
        model = net("norm")
        for granularity in self.plugin.granularities:
            before = everything(model)
            with suppress(ZeroDivisionError):  # a scorer that reads no data does not notice
                self.make(granularity)(model, Split.of(Failing()), TARGET, Runtime(batch_size=2))
            assert everything(model) == before

    def test_same_seed_same_bytes(self) -> None:
        for granularity in self.plugin.granularities:
            first = self.score(net("norm"), granularity, seed=5)
            second = self.score(net("norm"), granularity, seed=5)
            assert fingerprint(first) == fingerprint(second)
            assert first.header == second.header

    def test_header_records_every_option(self) -> None:
        for granularity in self.plugin.granularities:
            scorer = self.make(granularity)
            header = self.score(net("norm"), granularity).header
            assert header["scorer"] == scorer.name
            again = type(scorer)(**header["options"])
            assert again == scorer

    def test_a_planted_unit_comes_first(self) -> None:
        if not self.finds_planted:
            return
        for granularity in self.plugin.granularities:
            values = self.score(PlantedNet(), granularity).values
            scores = values["conv" if granularity == "filter" else "conv.weight"].flatten()
            assert int(scores.argmax()) == PlantedNet.UNIT


class EditorContract:
    """Inherit and set `plugin`; every granularity it offers is tried."""

    plugin: type[Editor]
    options: Mapping[str, Any] = MappingProxyType({})

    def make(self) -> Editor:
        """The editor."""
        return self.plugin(**self.options)

    def scores(self, model: nn.Module, granularity: Granularity) -> Scores:
        """Distinct positive scores for every weight matrix or unit."""
        anatomy = survey(model, images()[0][0][None])
        shapes: dict[str, tuple[int, ...]] = (
            {n: (layer.units,) for n, layer in anatomy.layers.items()}
            if granularity == "filter"
            else {n: tuple(model.get_parameter(n).shape) for n in anatomy.weights}
        )
        generator = torch.Generator().manual_seed(1)
        return Scores(
            granularity,
            {n: 0.01 + torch.rand(s, generator=generator) for n, s in sorted(shapes.items())},
            header={"scorer": "made-up"},
        )

    def plan(self, model: nn.Module, granularity: Granularity, strength: float | int) -> EditPlan:
        """The plan for those scores."""
        split = Split.of(images())
        return self.make()(self.scores(model, granularity), strength, model, split, Runtime())

    def test_counts_are_exact(self) -> None:
        for name in NETS:
            model = net(name)
            for granularity in self.plugin.granularities:
                scores = self.scores(model, granularity)
                for strength in (0.29, 0.5, 1.0):
                    plan = self.plan(model, granularity, strength)
                    left_out = sum(len(units) for units in plan.left_out.values())
                    if granularity == "filter":
                        want = how_many(scores.count, strength)
                        assert plan.changed_units + left_out == want
                    else:
                        want = sum(how_many(t.numel(), strength) for t in scores.values.values())
                        more = self.plugin.trains and plan.changed_weights > want
                        assert more or plan.changed_weights == want

    def test_strength_0_changes_nothing(self) -> None:
        model = net("norm")
        for granularity in self.plugin.granularities:
            for strength in (0, 0.0):
                plan = self.plan(model, granularity, strength)
                assert plan.changes == ()
                assert not plan.units

    def test_only_named_entries_change(self) -> None:
        for name in NETS:
            model = net(name)
            for granularity in self.plugin.granularities:
                plan = self.plan(model, granularity, 0.3)
                named = {n: torch.zeros(t.shape, dtype=torch.bool)
                         for n, t in model.state_dict().items()}  # fmt: skip
                for change in plan.changes:
                    if change.scope == "row":
                        named[change.tensor][change.indices] = True
                    else:
                        named[change.tensor].view(-1)[change.indices] = True
                before, after = model.state_dict(), apply(model, plan).state_dict()
                for tensor, mask in named.items():
                    assert torch.equal(before[tensor][~mask], after[tensor][~mask])
                assert any(not torch.equal(before[n], after[n]) for n in named)

    def test_an_edit_reverts_exactly(self) -> None:
        for name in NETS:
            model = net(name)
            for granularity in self.plugin.granularities:
                plan = self.plan(model, granularity, 0.3)
                before = everything(model)
                with edited(model, plan):
                    assert everything(model) != before
                assert everything(model) == before

    def test_planning_touches_nothing(self) -> None:
        for name in NETS:
            model = net(name)
            for granularity in self.plugin.granularities:
                before = everything(model)
                self.plan(model, granularity, 0.3)
                assert everything(model) == before

    def test_plan_values_are_in_range_and_sorted(self) -> None:
        model = net("norm")
        for granularity in self.plugin.granularities:
            plan = self.plan(model, granularity, 0.4)
            keys = [(c.tensor, c.scope, c.action) for c in plan.changes]
            assert keys == sorted(set(keys))
            for change in plan.changes:
                assert change.indices.dtype == torch.int64
                assert change.operand.dtype == torch.float32
                assert bool((change.indices.diff() > 0).all())
                assert bool(change.operand.isfinite().all())
                if change.action == "scale":
                    assert 0 <= float(change.operand.min()) <= float(change.operand.max()) <= 1

    def test_same_plan_twice(self) -> None:
        for granularity in self.plugin.granularities:
            first = self.plan(net("norm"), granularity, 0.3)
            second = self.plan(net("norm"), granularity, 0.3)
            assert first.digest() == second.digest()
