"""How PEPS's measures are distributed in a trained network, beside untrained and half-way ones.

Payne, Patrick, Fernandez, "Explaining Model Parameters Using the Product Space", ICPR 2024, whose
authors leave the fits and the tests to others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

import modeledit
from modeledit.data import Split
from modeledit.errors import ModelEditError
from modeledit.eval.predictions import predict
from modeledit.gradients import Scalar
from modeledit.product_space import Neighbourhood
from modeledit.runtime import Runtime
from modeledit.scorers._options import choice, non_negative, whole
from modeledit.study.effects import effect, holm
from modeledit.study.fits import Fit, Support, fit
from modeledit.study.gathering import MEASURES, PER, gather
from modeledit.study.output import Table
from modeledit.targets import Target

Floats = npt.NDArray[np.float64]
TRAINED, UNTRAINED = "trained", "random"
SUPPORT: Mapping[str, Support] = {
    "ig": "real",
    "gradient-variance": "positive",
    "stability": "sides",
    "consistency": "sides",
}
CUT = {"real": 0.9, "positive": 0.9, "sides": 0.99}  # quantile of sizes where a histogram ends
BINS = 48  # the paper cuts all at 0.9
POOLED, BY_LAYER = 4000, 2000  # values drawn for a fit, and from each layer for a test


@dataclass(frozen=True)
class Settings:
    """inputs: images; samples: perturbations; eps: radii; f: what is differentiated.

    neighbourhood: joint, all tensors move together; tensor, one at a time, as the authors' code
    has it, which takes as many times longer as there are tensors and bears radii like 1e4.
    """

    inputs: int = 10
    samples: int = 20
    eps: tuple[float, ...] = (1.0, 10.0)
    f: Scalar = "margin"
    neighbourhood: Neighbourhood = "joint"

    def __post_init__(self) -> None:
        whole("inputs", self.inputs, 1)
        whole("samples", self.samples, 1)
        choice("f", self.f, Scalar)
        choice("neighbourhood", self.neighbourhood, Neighbourhood)
        for radius in self.eps:
            non_negative("eps", radius)
        if not self.eps or len(set(self.eps)) < len(self.eps):
            raise ModelEditError(f"eps={self.eps} is not allowed: give different radii, at least 1")


@dataclass(frozen=True, eq=False)
class Shape:
    """One distribution, of `total` values.

    zeros: share of exact zeros (dead units), which histograms and fits leave out. edges (BINS + 1,)
    and counts (BINS,): the others inside the range; outside: share of them beyond it.
    layers: a draw by layer, zeros included. fits: closest first.
    """

    edges: Floats
    counts: npt.NDArray[np.int64]
    total: int
    outside: float
    zeros: float
    layers: Mapping[str, Floats]
    fits: tuple[Fit, ...]


Key = tuple[str, float, str, str]  # network, eps, measure, per


@dataclass(frozen=True, eq=False)
class Distributions:
    """shapes by network, radius, measure and granularity; accuracy of each network on the images
    it was measured on, in 0..1."""

    settings: Settings
    accuracy: Mapping[str, float]
    shapes: Mapping[Key, Shape]
    header: Mapping[str, Any]

    @property
    def networks(self) -> tuple[str, ...]:
        return tuple(self.accuracy)

    def tables(self) -> dict[str, Table]:
        """networks, histograms, fits and layers."""
        return {
            "networks": Table(("network", "accuracy"), tuple(self.accuracy.items())),
            "histograms": Table(
                ("network", "eps", "measure", "per", "left", "right", "count"),
                tuple(self._bins()),
            ),
            "fits": Table(
                ("network", "eps", "measure", "per", "values", "zeros", "family", "parameters",
                 "ks_distance", "ks_p", "tested", "closest"),
                tuple(self._fits()),
            ),
            "layers": self.layers(),
        }  # fmt: skip

    def layers(self) -> Table:
        """Trained against random by layer: Cliff's delta, and p with Holm's correction over the
        layers of one radius, measure and granularity. Integrated gradients enter by magnitude."""
        rows: list[tuple[Any, ...]] = []
        for eps in self.settings.eps:
            for measure in MEASURES:
                for per in PER:
                    rows += self._compared(eps, measure, per)
        columns = ("eps", "measure", "per", "layer", "trained_n", "random_n", "trained_median",
                   "random_median", "cliffs_delta", "p", "p_holm")  # fmt: skip
        return Table(columns, tuple(rows))

    def _compared(self, eps: float, measure: str, per: str) -> Iterator[tuple[Any, ...]]:
        trained = self.shapes[TRAINED, eps, measure, per].layers
        untrained = self.shapes[UNTRAINED, eps, measure, per].layers
        pairs = [(compared(measure, trained[n]), compared(measure, untrained[n])) for n in trained]
        effects = [effect(a, b) for a, b in pairs]
        corrected = holm([each.p for each in effects])
        for name, (a, b), each, p in zip(trained, pairs, effects, corrected, strict=True):
            medians = float(np.median(a)), float(np.median(b))
            yield eps, measure, per, name, len(a), len(b), *medians, each.delta, each.p, p

    def _bins(self) -> Iterator[tuple[Any, ...]]:
        for key, shape in self.shapes.items():
            for left, right, count in zip(
                shape.edges[:-1].tolist(), shape.edges[1:].tolist(), shape.counts.tolist(),
                strict=True,
            ):  # fmt: skip
                yield *key, left, right, count

    def _fits(self) -> Iterator[tuple[Any, ...]]:
        for key, shape in self.shapes.items():
            for rank, made in enumerate(shape.fits):
                numbers = " ".join(f"{number:.6g}" for number in made.parameters)
                yield (
                    *key, shape.total, shape.zeros, made.family, numbers, made.distance, made.p,
                    made.tested, int(rank == 0),
                )  # fmt: skip


def study(
    networks: Mapping[str, nn.Module],
    split: Split,
    target: Target,
    settings: Settings | None = None,
    runtime: Runtime | None = None,
) -> Distributions:
    """Distributions over networks of one architecture, "trained" and "random" among them.

    The same images, `settings.inputs` of the target's in `split`, for each; models stay as they
    are. Raises ModelEditError where the target has no image.
    """
    settings, runtime = settings or Settings(), runtime or Runtime()
    for needed in (TRAINED, UNTRAINED):
        if needed not in networks:
            raise ModelEditError(f"no network is called {needed!r}: give one to compare")
    mask = target.mask(split.labels)
    if not mask.any():
        raise ModelEditError(f"the {split.name} split has no example of {target}")
    examples = split.where(mask)
    shown = examples.sample(min(settings.inputs, len(examples)), runtime.seed)
    accuracy: dict[str, float] = {}
    shapes: dict[Key, Shape] = {}
    for name, model in networks.items():
        accuracy[name] = float(predict(model, split, runtime, f"measuring {name}").correct.mean())
        for eps in settings.eps:
            values = gather(
                model, shown, eps=eps, samples=settings.samples, f=settings.f,
                neighbourhood=settings.neighbourhood, runtime=runtime,
            )  # fmt: skip
            for (measure, per), by_name in values.items():
                shapes[name, eps, measure, per] = shape_of(by_name, measure, runtime.seed)
    header = {
        "study": "distributions",
        "settings": asdict(settings),
        "target": str(target),
        "split": split.name,
        "inputs": len(shown),
        "seed": runtime.seed,
        "versions": modeledit.versions(),
    }
    return Distributions(settings, accuracy, shapes, header)


def shape_of(by_name: Mapping[str, Tensor], measure: str, seed: int) -> Shape:
    """The distribution of one measure over {parameter: values}."""
    support = SUPPORT[measure]
    arrays = {name: t.numpy().ravel().astype(np.float64) for name, t in by_name.items()}
    values = np.concatenate(list(arrays.values()))
    moving = values[values != 0]
    edges = np.linspace(*_range(moving, support), BINS + 1)
    counts = np.histogram(moving, edges)[0]
    generator = np.random.default_rng([seed, len(values)])
    layers = {name: _drawn(array, BY_LAYER, generator) for name, array in arrays.items()}
    return Shape(
        edges=edges,
        counts=counts,
        total=len(values),
        outside=1 - int(counts.sum()) / max(len(moving), 1),
        zeros=1 - len(moving) / len(values),
        layers=layers,
        fits=fit(_drawn(moving, POOLED, generator), support, seed),
    )


def _range(moving: Floats, support: Support) -> tuple[float, float]:
    most = float(np.quantile(np.abs(moving), CUT[support])) if len(moving) else 1.0
    return (0.0 if support == "positive" else -most), most


def _drawn(values: Floats, count: int, generator: np.random.Generator) -> Floats:
    if len(values) <= count:
        return values
    return values[np.sort(generator.choice(len(values), count, replace=False))]


def compared(measure: str, values: Floats) -> Floats:
    """What a layer's test looks at: the size of an integrated gradient, any other as it is."""
    return np.abs(values) if measure == "ig" else values
