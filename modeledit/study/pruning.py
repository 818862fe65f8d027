"""Pruning curves: what is left when the same share of every tensor is set to 0 by a score.

The protocol of Payne, Patrick, Fernandez, "Explaining Model Parameters Using the Product Space",
ICPR 2024: exact counts per tensor, ties drawn at random, no fine-tuning, the classifier left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from scipy import stats
from torch import Tensor, nn

import modeledit
from modeledit.data import Data
from modeledit.editors.zero import Zero
from modeledit.errors import ModelEditError
from modeledit.eval.classes import per_class
from modeledit.eval.predictions import predict
from modeledit.product_space import Neighbourhood
from modeledit.runtime import Runtime
from modeledit.scorers._options import choice, refuse, share, whole
from modeledit.selection import Order
from modeledit.study.contestants import Contestant, contestants, scored
from modeledit.study.output import Table
from modeledit.surgery import edited
from modeledit.targets import ForgetClass, Target
from modeledit.types import Granularity, Scores

Reading = Literal["signed", "negated", "magnitude"]
COLUMNS = ("accuracy", "class_recall", "class_f1", "retain_accuracy")
_ENDS = ("", "_low", "_high")
Measured = dict[str, float | None]


@dataclass(frozen=True)
class Settings:
    """What is drawn.

    shares: of every tensor (or layer's filters) that are zeroed. orders: highest scores first, or
    lowest. readings: a score as it is, with its sign turned, or without it. replicates: how often
    images, perturbations and ties are drawn anew. eps, samples, inputs: of PEPS's measures.
    """

    granularity: Granularity = "weight"
    shares: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    orders: tuple[Order, ...] = ("highest", "lowest")
    readings: tuple[Reading, ...] = ("signed",)
    replicates: int = 3
    eps: tuple[float, ...] = (1.0,)
    samples: tuple[int, ...] = (8, 32)
    inputs: int = 32
    neighbourhood: Neighbourhood = "joint"

    def __post_init__(self) -> None:
        choice("granularity", self.granularity, Granularity)
        choice("neighbourhood", self.neighbourhood, Neighbourhood)
        whole("replicates", self.replicates, 1)
        whole("inputs", self.inputs, 1)
        for value in self.shares:
            share("shares", value)
        for order in self.orders:
            choice("orders", order, Order)
        for reading in self.readings:
            choice("readings", reading, Reading)
        for name in ("shares", "orders", "readings", "eps", "samples"):
            values = getattr(self, name)
            refuse(
                not values or len(set(values)) < len(values),
                f"{name}={values} is not allowed: give different values, at least one",
            )

    def ways(self) -> Iterator[tuple[Reading, Order]]:
        """Readings and orders to draw; negated and highest first is signed and lowest first."""
        seen = set()
        for reading in self.readings:
            for order in self.orders:
                turned: Order = "lowest" if order == "highest" else "highest"
                key = ("signed", turned) if reading == "negated" else (reading, order)
                if key not in seen:
                    seen.add(key)
                    yield reading, order


@dataclass(frozen=True)
class Point:
    """What was left after one edit."""

    target: str
    score: str
    panel: str
    reading: str
    order: str
    share: float
    replicate: int
    zeroed: int
    measured: Mapping[str, float | None]
    recalls: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Curves:
    """points of every target, score, reading, order, share and replicate.

    before: {target: what the unedited network reaches}. notes: scores that were left out, and why.
    """

    settings: Settings
    class_names: tuple[str, ...]
    points: tuple[Point, ...]
    before: Mapping[str, Measured]
    notes: tuple[str, ...]
    header: Mapping[str, Any]

    def tables(self) -> dict[str, Table]:
        """points, curves (means and 95 % intervals) and the recall of every class."""
        keys = ("target", "score", "reading", "order", "share")
        return {
            "points": Table(
                (*keys, "replicate", "zeroed", *COLUMNS),
                tuple((*_key(p), p.replicate, p.zeroed, *p.measured.values()) for p in self.points),
            ),
            "curves": Table(
                (*keys, "replicates", *(f"{c}{end}" for c in COLUMNS for end in _ENDS)),
                tuple(self._means()),
            ),
            "classes": Table(
                (*keys, "replicate", *self.class_names),
                tuple((*_key(p), p.replicate, *p.recalls) for p in self.points),
            ),
        }  # fmt: skip

    def curve(
        self, target: str, score: str, reading: str, order: str, column: str
    ) -> list[tuple[float, float, float, float]]:
        """(share, mean, low, high) along one curve; empty where the target has no such number."""
        found = []
        for each in self.settings.shares:
            wanted = (target, score, reading, order, each)
            values = [p.measured[column] for p in self.points if _key(p) == wanted]
            known = [value for value in values if value is not None]
            if known:
                found.append((each, *interval(known)))
        return found

    def _means(self) -> Iterator[tuple[Any, ...]]:
        groups: dict[tuple[Any, ...], list[Point]] = {}
        for point in self.points:
            groups.setdefault(_key(point), []).append(point)
        for key, members in groups.items():
            cells: list[float | None] = []
            for column in COLUMNS:
                values = [p.measured[column] for p in members]
                known = [value for value in values if value is not None]
                cells += interval(known) if known else (None, None, None)
            yield (*key, len(members), *cells)


def _key(point: Point) -> tuple[str, str, str, str, float]:
    return point.target, point.score, point.reading, point.order, point.share


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean and the ends of Student's 95 % interval around it, cut to 0..1; one value: itself."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, mean, mean
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def study(
    model: nn.Module,
    data: Data,
    targets: Sequence[Target],
    settings: Settings | None = None,
    scorers: Sequence[str] | None = None,
    runtime: Runtime | None = None,
) -> Curves:
    """Curves on `data.test` of scores made on `data.train`; the model stays as it is.

    scorers: names beside PEPS's measures and the random baseline; None for all that fit, leaving
    out, with a note, those that cannot score a target. One that is named must fit.
    """
    settings, runtime = settings or Settings(), runtime or Runtime()
    chosen, notes = contestants(settings.granularity, scorers)
    work = Zero()  # the plan of an edit, by the same rules as everywhere
    points: list[Point] = []
    before: dict[str, Measured] = {}
    for target in targets:
        for split in (data.train, data.test):
            refuse(
                not target.mask(split.labels).any(),
                f"the {split.name} split has no example of {target}",
            )
        before[str(target)] = _measure(model, data, target, runtime)[0]
        for replicate in range(settings.replicates):
            seeded = replace(runtime, seed=runtime.seed + replicate)
            for contestant, scores in _all_scores(
                model, data, target, settings, chosen, notes, seeded
            ):
                points += _curves(
                    model, data, target, settings, work, contestant, scores, replicate, seeded
                )
    header = {
        "study": "pruning",
        "settings": asdict(settings),
        "targets": [str(target) for target in targets],
        "images": {"train": len(data.train), "test": len(data.test)},
        "seed": runtime.seed,
        "versions": modeledit.versions(),
    }
    named = tuple(dict.fromkeys(notes))
    return Curves(settings, data.class_names, tuple(points), before, named, header)


def _all_scores(
    model: nn.Module, data: Data, target: Target, settings: Settings,
    chosen: Sequence[Contestant], notes: list[str], runtime: Runtime,
) -> Iterator[tuple[Contestant, Scores]]:  # fmt: skip
    yield from scored(
        model, data.train, target, granularity=settings.granularity, eps=settings.eps,
        samples=settings.samples, inputs=settings.inputs, neighbourhood=settings.neighbourhood,
        runtime=runtime,
    )  # fmt: skip
    for contestant in chosen:
        try:
            yield contestant, contestant.scores(model, data.train, target, runtime)
        except ModelEditError as error:
            if not contestant.optional:
                raise
            notes.append(f"{contestant.name} is left out for {target}: {error}")


def _curves(
    model: nn.Module, data: Data, target: Target, settings: Settings, editor: Zero,
    contestant: Contestant, scores: Scores, replicate: int, runtime: Runtime,
) -> Iterator[Point]:  # fmt: skip
    ways = list(settings.ways())
    if contestant.baseline:
        ways = ways[:1]  # an order of chance has no end
    for reading, order in ways:
        read = replace(scores, values={n: _read(t, reading) for n, t in scores.values.items()})
        chosen = replace(editor, order=order, allocation="per-tensor")
        planner = chosen.prepare(read, model, data.train, runtime)
        for each in settings.shares:
            plan = planner(each)
            with edited(model, plan):
                measured, recalls = _measure(model, data, target, runtime)
            zeroed = plan.changed_units if plan.units else plan.changed_weights
            yield Point(
                str(target), contestant.name, contestant.panel, reading, order, each, replicate,
                zeroed, measured, recalls,
            )  # fmt: skip


def _read(values: Tensor, reading: Reading) -> Tensor:
    if reading == "magnitude":
        return values.abs()
    return -values if reading == "negated" else values


def _measure(
    model: nn.Module, data: Data, target: Target, runtime: Runtime
) -> tuple[Measured, tuple[float, ...]]:
    """COLUMNS on the test split, and the recall of every class. For several classes means."""
    answers = predict(model, data.test, runtime, "measuring")
    by_class = per_class(answers, data.class_names)
    measured: Measured = dict.fromkeys(COLUMNS)
    measured["accuracy"] = float(answers.correct.mean())
    if isinstance(target, ForgetClass):
        mine = [by_class[index] for index in target.classes]
        measured["class_recall"] = float(np.mean([each.recall for each in mine]))
        measured["class_f1"] = float(np.mean([each.f1 for each in mine]))
        others = answers.correct[~target.mask(answers.labels)]
        measured["retain_accuracy"] = float(others.mean()) if len(others) else None
    return measured, tuple(each.recall for each in by_class)
