"""Which layers an edit is limited to: named ones, or those through which a class is supported.

The choice "auto" is made on training images alone, by the scorer `layer-influence`: the fewest
layers that hold half of the helpful influence of the target's images on one another. Not of its
difference from the control: a class that is easier than others is supported less in every layer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from modeledit.data import Split
from modeledit.errors import ModelEditError
from modeledit.runtime import Runtime
from modeledit.scorers import Scorer
from modeledit.scorers.layer_influence import LayerInfluence
from modeledit.targets import Target
from modeledit.types import Scores
from modeledit.units import Anatomy, limited

Layers = Literal["auto"] | Sequence[str]
SHARE = 0.5  # of the positive influence
KEY = "limited_to"  # in the header of scores


@dataclass(frozen=True)
class Limit:
    """Layers by name, which stand for everything beneath them, and how they were found.

    passes: forward-equivalent images that the choice took; ranking: the rows it was made from.
    """

    layers: tuple[str, ...]
    rule: str
    passes: int = 0
    ranking: tuple[Mapping[str, Any], ...] = ()

    def header(self) -> dict[str, Any]:
        """What scores say of it, as JSON values."""
        told = {"layers": list(self.layers), "rule": self.rule, "passes": self.passes}
        return {KEY: told | ({"ranking": list(self.ranking)} if self.ranking else {})}


def choose(
    layers: Layers, model: nn.Module, split: Split, target: Target, runtime: Runtime
) -> Limit:
    """The limit that was asked for; "auto" scores the layers on `split`, the training images."""
    if layers == "auto":
        before = runtime.meter.images
        ranking = LayerInfluence()(model, split, target, runtime).header["layers"]
        return by_influence(ranking, round(runtime.meter.images - before))
    if isinstance(layers, str) or not layers:
        raise ModelEditError(f"layers={layers!r} is not allowed: give auto or a list of names")
    return Limit(tuple(layers), "named")


def by_influence(ranking: Sequence[Mapping[str, Any]], passes: int = 0) -> Limit:
    """The fewest layers that hold SHARE of the sum of the target's helpful influence.

    ranking: rows of layer, target, control and difference, as `layer-influence` puts them into the
    header of its scores.
    """
    helpful = sorted(
        (row for row in ranking if row["target"] > 0),
        key=lambda row: (-row["target"], row["layer"]),
    )
    if not helpful:
        raise ModelEditError(
            "through no layer do the target's images help one another, so none can be chosen: "
            "name layers, or leave layers out"
        )
    wanted, held, count = SHARE * sum(row["target"] for row in helpful), 0.0, 0
    while held < wanted:
        held += helpful[count]["target"]
        count += 1
    rule = f"auto: the fewest layers with {SHARE:.0%} of the target's helpful influence"
    return Limit(tuple(row["layer"] for row in helpful[:count]), rule, passes, tuple(ranking))


def restricted(scores: Scores, limit: Limit, anatomy: Anatomy) -> Scores:
    """Scores made before, without those of other layers."""
    if "steps" in scores.header:
        raise ModelEditError(
            "these scores are an order of editing, of which no part can be left out: give the "
            "layers when scoring"
        )
    few = limited(anatomy, limit.layers)
    kept: Collection[str] = few.layers if scores.granularity == "filter" else few.parameters

    def part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in tensors.items() if name in kept}

    if not part(scores.values):
        raise ModelEditError(f"no scored layer is among {', '.join(limit.layers)}: name others")
    return replace(
        scores,
        values=part(scores.values),
        raw=part(scores.raw),
        header={**scores.header, **limit.header()},
        half_width=part(scores.half_width),
        pins=part(scores.pins),
    )


def most_passes(layers: Layers | None, shown: int, others: int, tensors: int) -> int:
    """Forward-equivalent images that the choice takes, at most."""
    scorer: Scorer = LayerInfluence()
    return scorer.passes(shown, others, tensors) if layers == "auto" else 0
