"""What disturbed pictures do to a network: accuracy, and the layers and training images they move.

Aamir, Tamosiunaite, Woergoetter, Front. Comput. Neurosci. 17:1172883, 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import modeledit
from modeledit.data import Split
from modeledit.errors import ModelEditError
from modeledit.eval.predictions import predict
from modeledit.influence import Influence, influence
from modeledit.influence.layers import Choice
from modeledit.runtime import Runtime
from modeledit.scorers._options import choice, refuse, whole
from modeledit.study.clustering import Clusters, Distance, cluster
from modeledit.study.regions import regions
from modeledit.study.variants import Pictures, Scale, Variant

Floats = npt.NDArray[np.float64]
Profile = Literal["intra", "inter", "both"]


@dataclass(frozen=True)
class Settings:
    """profile: what of each layer is clustered, the mean influence of training images of the test
    image's class (intra), of others (inter), or both; distance: of the clustering.

    solver, layers: as `influence` takes them.

    shown: test images that are looked at in detail, each with its `top` most influential training
    images and a grid of side x side regions valued by `evaluations` coalitions.
    """

    profile: Profile = "both"
    distance: Distance = "correlation"
    solver: str = "ekfac"
    layers: Choice = "matrices"
    shown: int = 2
    top: int = 4
    side: int = 6
    evaluations: int = 400

    def __post_init__(self) -> None:
        choice("profile", self.profile, Profile)
        choice("distance", self.distance, Distance)
        for name in ("shown", "top"):
            whole(name, getattr(self, name), 1)
        whole("side", self.side, 2)
        whole("evaluations", self.evaluations, 2)


@dataclass(frozen=True, eq=False)
class Answers:
    """Of one variant. accuracy against the labels, `textured` against the textures' labels (None
    where no texture was taken): hits of n. predicted: (B,)."""

    hits: int
    n: int
    textured: int | None
    predicted: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Disturbances:
    """Everything found. V variants, L layers, B test images, C classes.

    intra, inter: (V, L, B) mean influence of the training images of the test image's class, and of
    the others, helpful > 0. by_class: (V, C, C) mean total influence, test class by training class;
    NaN where there is no pair. top, top_values: (V, B, k) positions of training images and their
    total influence. regions: (V, shown, side, side).
    """

    settings: Settings
    variants: tuple[Variant, ...]
    labels: Tensor
    class_names: tuple[str, ...]
    layers: tuple[str, ...]
    answers: tuple[Answers, ...]
    intra: Floats
    inter: Floats
    by_class: Floats
    top: npt.NDArray[np.int64]
    top_values: Floats
    regions: Floats
    training: Pictures
    header: dict[str, Any]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(variant.name for variant in self.variants)

    @property
    def clusters(self) -> Clusters:
        """Of the variants by their layer profiles, means over test images."""
        kinds = {"intra": (self.intra,), "inter": (self.inter,), "both": (self.intra, self.inter)}
        rows = np.concatenate([kind.mean(2) for kind in kinds[self.settings.profile]], axis=1)
        return cluster(self.names, rows, self.settings.distance)


def study(
    model: nn.Module,
    variants: Sequence[Variant],
    labels: Tensor,
    training: Pictures,
    scale: Scale,
    class_names: tuple[str, ...],
    settings: Settings | None = None,
    runtime: Runtime | None = None,
) -> Disturbances:
    """Measure every variant of the same test pictures; influence is that of `training`.

    variants: the first is the original. labels: (B,) of the test pictures. The model stays as it
    is.
    """
    settings, runtime = settings or Settings(), runtime or Runtime()
    count = len(labels)
    refuse(count < 1 or len(variants) < 2, "give at least one picture and one disturbance")
    if settings.top > len(training.labels):
        raise ModelEditError(
            f"the top {settings.top} of {len(training.labels)} training images were asked for: "
            "give fewer, or more training images"
        )
    splits = [scale.split(variant.pixels, labels, variant.name) for variant in variants]
    answers = tuple(
        _answers(model, split, variant, runtime)
        for split, variant in zip(splits, variants, strict=True)
    )
    everything = torch.cat([variant.pixels for variant in variants])
    found = influence(
        model,
        scale.split(training.pixels, training.labels, "train"),
        scale.split(everything, labels.repeat(len(variants)), "disturbed"),
        solver=settings.solver,
        layers=settings.layers,
        runtime=runtime,
    )
    intra, inter = (_by_variant(mean, len(variants)) for mean in found.averages())
    places, values = found.top(settings.top)
    shown = slice(0, min(settings.shown, count))
    images = torch.cat([scale.images(variant.pixels[shown]) for variant in variants])
    with runtime.progress.stage("regions", 1) as tick:
        cells = regions(
            model, images, labels[shown].repeat(len(variants)), settings.side,
            settings.evaluations, runtime,
        )  # fmt: skip
        tick(1)
    header = {
        "study": "disturbances",
        "settings": asdict(settings),
        "influence": dict(found.header),
        "images": {"test": count, "train": len(training.labels)},
        "seed": runtime.seed,
        "versions": modeledit.versions(),
    }
    shape = (len(variants), count, settings.top)
    return Disturbances(
        settings=settings,
        variants=tuple(variants),
        labels=labels,
        class_names=class_names,
        layers=found.layers,
        answers=answers,
        intra=intra,
        inter=inter,
        by_class=_by_class(found, len(variants), len(class_names)),
        top=places.T.reshape(shape).numpy(),
        top_values=values.T.reshape(shape).double().numpy(),
        regions=cells.reshape(len(variants), -1, settings.side, settings.side),
        training=training,
        header=header,
    )


def _answers(model: nn.Module, split: Split, variant: Variant, runtime: Runtime) -> Answers:
    found = predict(model, split, runtime, f"measuring {variant.name}")
    textured = None
    if variant.texture_labels is not None:
        textured = int((found.predicted == variant.texture_labels.numpy()).sum())
    return Answers(int(found.correct.sum()), len(found), textured, found.predicted)


def _by_variant(columns: Tensor, variants: int) -> Floats:
    """(L, V * B) -> (V, L, B)"""
    found: Floats = columns.double().numpy().reshape(len(columns), variants, -1).transpose(1, 0, 2)
    return found


def _by_class(found: Influence, variants: int, classes: int) -> Floats:
    """(V, C, C) mean total influence of training class (columns) on test class (rows)."""
    total = found.total().double().numpy()  # (train, V * B)
    train = np.eye(classes)[found.train_labels.numpy()]  # (train, C)
    test = np.eye(classes)[found.test_labels.numpy()].reshape(variants, -1, classes)  # (V, B, C)
    parts = total.reshape(len(train), variants, -1)
    sums = np.einsum("tvb,vbr,tc->vrc", parts, test, train, optimize=True)
    pairs = test.sum(1)[:, :, None] * train.sum(0)
    means: Floats = np.divide(sums, pairs, out=np.full_like(sums, np.nan), where=pairs > 0)
    return means
