"""Games of filters that benchmarks share: a reference, and values of coalitions kept on disk."""

from __future__ import annotations

import argparse
import platform
import sqlite3
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import modeledit
from modeledit.data import Batch, Split
from modeledit.games import FilterGame, GameSpec, Metric, reading
from modeledit.games import Path as Engine
from modeledit.gate_orders import gate_orders
from modeledit.gate_path import gate_ig
from modeledit.judging import Baseline
from modeledit.runtime import Runtime
from modeledit.scorers._games import matching, numbered
from modeledit.shapley import Estimate, Floats
from modeledit.shapley.permutation import Antithetic, Permutation
from modeledit.shapley.running import Budget, run
from modeledit.surgery import record_means
from modeledit.targets import Accuracy
from modeledit.types import Unit
from modeledit.units import survey

STEPS = 4  # of the gate path
WINDOWS = 10  # of its random orders


@dataclass(frozen=True)
class Arena:
    """One game and its reference: layers, metric and images of a network."""

    baseline: Baseline
    options: argparse.Namespace
    patterns: str
    metric: Metric

    @property
    def name(self) -> str:
        return f"{self.options.dataset} {self.patterns or 'all'} {self.metric}"

    @cached_property
    def spec(self) -> GameSpec:
        return played(self.baseline, self.patterns, self.metric, self.options.images)

    def game(self, path: Engine = "auto") -> FilterGame:
        return replace(self.spec, path=path).open()

    @cached_property
    def kept(self) -> Kept:
        return Kept(self.game(), self.options.cache, self.name + f" {self.options.images}")

    @cached_property
    def reference(self) -> Estimate:
        short = self.options.truncation
        name = f"{self.name} {self.options.images}" + (f" {short}" if short is not None else "")
        file = self.options.cache / f"{name}.reference.safetensors"
        return run(
            self.kept,
            Antithetic() if short is None else Permutation(truncation=short),
            seed=1_000_003,
            budget=Budget(self.options.reference),
            resume=Path(str(file).replace(",", "+")),
        )

    @property
    def unsure(self) -> float:
        """The reference's standard error, in its norm."""
        found = self.reference
        return float(np.linalg.norm(found.half_width / 1.96) / np.linalg.norm(found.values))

    @cached_property
    def prior(self) -> tuple[Floats, float]:
        """(n, 1) gate-path values of the probability, and the forward-equivalents per image."""
        runtime = Runtime()
        found = gate_ig(*self._gated, runtime, STEPS)[self._places]
        return found, runtime.meter.images / sum(len(batch.labels) for batch in self.spec.batches)

    @cached_property
    def priors(self) -> Floats:
        """(n, 1, 2): by both paths, as neuron-shapley has them."""
        orders = gate_orders(*self._gated, Runtime(), WINDOWS)[self._places]
        return np.stack([self.prior[0], orders], axis=2)

    @property
    def _places(self) -> list[int]:
        """Of the game's units among all of the layers."""
        layers = [(name, self.spec.anatomy.layers[name].units) for name in self.spec.layers]
        every = [Unit(name, index) for name, units in layers for index in range(units)]
        at = {unit: place for place, unit in enumerate(every)}
        return [at[unit] for unit in self.kept.game.units]

    @property
    def _gated(self) -> tuple[Any, ...]:
        spec = self.spec
        metric = "probability" if self.metric == "accuracy" else spec.readings[0].metric
        parts = replace(spec.readings[0], metric=metric).parts
        return spec.model, spec.anatomy, spec.layers, spec.means, spec.batches, parts

    @property
    def row(self) -> dict[str, Any]:
        return {
            "arena": self.name,
            "filters": self.kept.players,
            "images": self.options.images,
            "reference": self.options.reference,
            "truncation": self.options.truncation,
            "model": self.baseline.digest,
            "versions": modeledit.versions(),
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
        }


class Kept:
    """A game whose values are kept on disk; `asked` counts evaluations, kept or not."""

    def __init__(self, game: FilterGame, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.game, self.players, self.names = game, game.players, game.names
        self._table = sqlite3.connect(folder / "values.sqlite", isolation_level=None)
        self._table.execute("pragma synchronous = off")
        self._table.execute(
            "create table if not exists v (game, alive, value, primary key(game, alive))"
        )
        self._name, self.asked = name, 0

    def value(self, alive: Tensor, *, keep: bool = True) -> Floats:
        self.asked += 1
        key = (self._name, np.packbits(alive.numpy()).tobytes())
        found = self._table.execute("select value from v where game = ? and alive = ?", key)
        if row := found.fetchone():
            return np.frombuffer(row[0])
        value = self.game.value(alive, keep=keep)
        self._table.execute("insert into v values (?, ?, ?)", (*key, value.tobytes()))
        return value

    def rows(self, coalitions: Floats) -> Floats:
        """(K,), as shapiq asks."""
        wanted = np.atleast_2d(coalitions).astype(bool)
        return np.array([self.value(torch.from_numpy(row))[0] for row in wanted])


def images_of(split: Split, count: int) -> tuple[tuple[Batch, ...], npt.NDArray[np.int64]]:
    """At most `count` images, stratified: their batches, counted through, and their labels."""
    shown = split.sample(min(count, len(split)), 0)
    batches, positions = numbered(shown, Runtime(batch_size=250))
    return batches, shown.labels[positions]


def played(baseline: Baseline, patterns: str, metric: Metric, images: int) -> GameSpec:
    """The units of the layers that fit, "" for all, with mean pins, on training images."""
    model, train = baseline.loaded.module, baseline.data.train
    anatomy = survey(model, train.example())
    layers = matching(anatomy, patterns)
    bare = [name for name in layers if anatomy.layers[name].pin == "zero"]
    held = [name for name in layers if name not in bare]
    means = record_means(model, train.sample(1024, 0), held, Runtime(batch_size=250))
    for name in bare:  # nothing can hold another constant
        layer = anatomy.layers[name]
        means[name] = torch.zeros(layer.units, layer.width)
    batches, labels = images_of(train, images)
    read = reading(Accuracy(), metric, labels, None)
    return GameSpec(model, anatomy, layers, means, batches, (read,))
