"""The scores that a pruning study compares: PEPS's measures, every other scorer, and chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from modeledit import plugins
from modeledit.data import Split
from modeledit.errors import ModelEditError
from modeledit.product_space import Neighbourhood
from modeledit.runtime import Runtime
from modeledit.scorers import Scorer
from modeledit.scorers._parts import Filters
from modeledit.study.gathering import MEASURES, gather
from modeledit.targets import Target
from modeledit.types import Granularity, Scores
from modeledit.units import survey

RANDOM = "random"


@dataclass(frozen=True)
class Contestant:
    """name: unique. panel: where its curve is drawn. optional: left out where it does not fit."""

    name: str
    panel: str
    scorer: Scorer | None = None
    optional: bool = False

    @property
    def baseline(self) -> bool:
        return self.name == RANDOM

    def scores(self, model: nn.Module, split: Split, target: Target, runtime: Runtime) -> Scores:
        """Raises ModelEditError where the scorer does not fit the target or the protocol."""
        if self.scorer is None:
            raise ModelEditError(f"{self.name} comes from a round of gradients, not from a scorer")
        found = self.scorer(model, split, target, runtime)
        if found.header.get("steps") is not None:
            raise ModelEditError("it is an order of editing, not a score of every weight")
        return found


def contestants(
    granularity: Granularity, scorers: Sequence[str] | None
) -> tuple[list[Contestant], list[str]]:
    """Chance and the scorers by name, or all for None, with a note on those that are left out."""
    others: list[str] = []
    found = [_contestant(RANDOM, granularity, optional=False)]
    for name in plugins.names("scorers") if scorers is None else scorers:
        cls: type[Any] = plugins.load("scorers", name)
        if name == RANDOM:
            continue
        if granularity not in cls.granularities:
            if scorers is not None:
                allowed = " or ".join(cls.granularities)
                raise ModelEditError(
                    f"{name} does not score by {granularity}: leave it out, or use --granularity "
                    f"{allowed}"
                )
            others.append(name)
            continue
        found.append(_contestant(name, granularity, optional=scorers is None))
    notes = [f"do not score by {granularity}: {', '.join(others)}"] if others else []
    return found, notes


def _contestant(name: str, granularity: Granularity, *, optional: bool) -> Contestant:
    cls = plugins.load("scorers", name)
    options: dict[str, Any] = {"granularity": granularity}
    if granularity == "weight" and "tensors" in {field.name for field in fields(cls)}:
        options["tensors"] = "all"  # norms and biases too, as in the paper
    shown = "peps, selective" if name == "peps" else name
    return Contestant(shown, shown, plugins.create("scorers", name, options), optional)


def scored(
    model: nn.Module,
    split: Split,
    target: Target,
    *,
    granularity: Granularity,
    eps: Sequence[float],
    samples: Sequence[int],
    inputs: int,
    neighbourhood: Neighbourhood,
    runtime: Runtime,
) -> Iterator[tuple[Contestant, Scores]]:
    """PEPS's four measures at each radius and number of samples, from one round of gradients each.

    At radius 0 there is one sample, stability is 0 and consistency 1 everywhere.
    """
    examples = split.where(target.mask(split.labels))
    shown = examples.sample(min(inputs, len(examples)), runtime.seed)
    names = Filters(survey(model, shown.example()))
    for radius in eps:
        for count in samples if radius else samples[:1]:
            found = gather(
                model, shown, eps=radius, samples=count, f="margin",
                neighbourhood=neighbourhood, runtime=runtime,
            )  # fmt: skip
            for measure in MEASURES:
                values = found[measure, granularity]
                if granularity == "filter":
                    values = names.layers(values)
                label = f"{measure} ε={radius:g} S={count}"
                yield Contestant(label, measure), Scores(granularity, values)
