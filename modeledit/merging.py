"""Scores of one behaviour from several owners of images, as if the images were in one place.

The value of a sub-network on pooled images is the mean of its values on each owner's, weighted by
their images, and Shapley values, gate-path integrals and leave-one-out differences are linear in
that value (additivity; Shapley 1953, Ghorbani & Zou 2020). So nobody has to send an image.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

import modeledit
from modeledit.checkpoint import identity
from modeledit.errors import ModelEditError
from modeledit.types import Scores

UNKNOWN = torch.finfo(torch.float32).max  # a half width of which nothing is known
SAME = ("scorer", "target", "attack", "metric", "model_digest", "units_played")
SAME_OPTIONS = ("layers", "value")
SUMS = ("examples", "passes", "evaluations")
OWN = ("data_digest", "resolved")  # of one owner's run, whatever the others have


@dataclass(frozen=True, eq=False)
class Part:
    """One owner's scores; `name` is what messages call them."""

    name: str
    scores: Scores

    @cached_property
    def digest(self) -> str:
        """sha256 of all they hold."""
        s = self.scores
        tensors = [identity(dict(part)) for part in (s.values, s.raw, s.half_width, s.pins)]
        text = json.dumps([s.granularity, tensors, s.header], sort_keys=True, default=dict)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def owners(self) -> dict[str, Any]:
        """{digest: seed} of every owner's scores that are in it: its own, or those it was merged
        from."""
        header = self.scores.header
        merged = header.get("owners") or {self.digest: header.get("seed")}
        return dict(merged)

    @property
    def game(self) -> dict[str, Any]:
        """What must be the same for values to add, under the name that a message uses."""
        header, options = self.scores.header, self.scores.header.get("options", {})
        return {
            **{key: header.get(key) for key in SAME},
            **{f"option {key}": options.get(key) for key in SAME_OPTIONS},
            "pins": identity(dict(self.scores.pins)),
            "units": {name: tuple(values.shape) for name, values in self.scores.values.items()},
        }

    @property
    def sign(self) -> int:
        """`values` by `raw`: units that lower a group's recall are edited first."""
        return -1 if str(self.scores.header["target"]).startswith("group") else 1

    @property
    def raw(self) -> Mapping[str, Tensor]:
        """The plain values, which are linear in the metric."""
        scores = self.scores
        return scores.raw or {name: self.sign * v for name, v in scores.values.items()}

    @property
    def images(self) -> dict[str, int]:
        """The metric's denominators: {set of images: its count}."""
        return dict(self.scores.header["images"])

    @property
    def sampled(self) -> bool:
        """Whether the owner may have more images than were scored."""
        most = self.scores.header.get("options", {}).get("images")
        return most is not None and sum(self.images.values()) >= most


def merge(parts: Sequence[Part], weights: Sequence[float] | None = None) -> Scores:
    """The scores on all owners' images together, up to sampling error.

    weights: > 0, one per part: how many images decide the metric there (of the class, for the
        recall of a class). By default those that were scored, where they were all there are.
    `values` are the merged plain values, oriented, whatever relative ones the parts have beside
    them. Half widths: the root of the sum of squares where no two parts share a seed; else,
    as errors may then agree, their sum, each with its part's share.
    Raises ModelEditError where the values would not add up: naming the part and what differs.
    """
    _check(parts)
    shares = _shares(parts, weights)
    first = parts[0].scores
    raw = _sum([part.raw for part in parts], shares)
    header = {
        **_common(parts),
        **{key: sum(part.scores.header.get(key, 0) for part in parts) for key in SUMS},
        "images": {n: sum(p.images[n] for p in parts if n in p.images) for n in _sets(parts)},
        "owners": {digest: seed for part in parts for digest, seed in part.owners.items()},
        "versions": modeledit.versions(),
        "parts": [
            {"digest": part.digest, "weight": share, "seed": part.scores.header.get("seed")}
            for part, share in zip(parts, shares, strict=True)
        ],
    }
    return Scores(
        first.granularity,
        values={name: parts[0].sign * tensor for name, tensor in raw.items()},
        raw=raw,
        header=header,
        half_width=_half_width(parts, shares),
        pins=first.pins,
    )


def _check(parts: Sequence[Part]) -> None:
    if len(parts) < 2:
        raise ModelEditError(f"merging takes two files of scores or more, not {len(parts)}")
    for part in parts:
        _check_additive(part)
    first = parts[0]
    for number, part in enumerate(parts[1:], 1):
        for what, value in part.game.items():
            if value != first.game[what]:
                raise ModelEditError(_difference(part, first, what))
        for other in parts[:number]:
            if part.owners.keys() & other.owners.keys():
                raise ModelEditError(
                    f"{part.name} and {other.name} hold the same scores: give each owner's once"
                )


def _check_additive(part: Part) -> None:
    header = part.scores.header
    if "metric" not in header or "images" not in header or "steps" in header:
        raise ModelEditError(
            f"{part.name} has scores by {header.get('scorer', 'an unknown scorer')}, which do not "
            "add up over owners: score by neuron-shapley, gate-ig or leave-one-out"
        )
    if header.get("model_digest") is None:
        raise ModelEditError(
            f"{part.name} does not say which model was scored: make it with `modeledit score` or "
            "modeledit.pipeline.score"
        )
    if header.get("target") == "group:worst":
        raise ModelEditError(
            f"{part.name} is for group:worst, and the worst group of all images need not be the "
            "worst of any owner's: score for group, the mean, instead"
        )


def _difference(part: Part, first: Part, what: str) -> str:
    """One line on two parts that are of different games."""
    if what == "pins":
        return (
            f"{part.name} was scored with other pinned constants than {first.name}: score it with "
            f"pins_from={first.name}, or all of them with value=beta or value=zero"
        )
    if what == "units":
        return f"{part.name} has other layers or units than {first.name}: score the same on both"
    if what == "model_digest":
        return f"{part.name} is of another model than {first.name}: all must score the same file"
    one, other = part.game[what], first.game[what]
    return f"{part.name} has {what} {one!r} and {first.name} {other!r}: they must be the same"


def _shares(parts: Sequence[Part], weights: Sequence[float] | None) -> tuple[float, ...]:
    """The weights, summing to 1."""
    if weights is None:
        weights = _counted(parts)
    if len(weights) != len(parts):
        raise ModelEditError(
            f"{len(weights)} weights were given for {len(parts)} files of scores: give one for each"
        )
    for part, weight in zip(parts, weights, strict=True):
        if not (math.isfinite(weight) and weight > 0):
            raise ModelEditError(f"the weight of {part.name} is {weight}: give a number above 0")
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


def _counted(parts: Sequence[Part]) -> list[float]:
    """The images that decide the metric, as the headers have them."""
    totals = [sum(part.images.values()) for part in parts]
    everything = sum(totals)
    for part, total in zip(parts, totals, strict=True):
        if part.sampled:
            raise ModelEditError(
                f"{part.name} was scored on a sample of {total:,} images, which does not tell how "
                "many there are: give --weights with the numbers of images"
            )
        for name in _sets(parts):
            all_of_it = sum(other.images.get(name, 0) for other in parts)
            if part.images.get(name, 0) * everything != all_of_it * total:
                raise ModelEditError(
                    f"{part.name} has another share of {name} than the others, so that the mean "
                    "over groups does not add up: score groups in equal shares, or give --weights "
                    "for a mean over the owners"
                )
    return [float(total) for total in totals]


def _sets(parts: Sequence[Part]) -> list[str]:
    return sorted({name for part in parts for name in part.images})


def _sum(tensors: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """The weighted sum, in float64 on the way."""
    return {
        name: sum(
            (share * each[name].double() for share, each in zip(shares, tensors, strict=True)),
            start=torch.zeros(()),
        ).float()
        for name in tensors[0]
    }


def _half_width(parts: Sequence[Part], shares: Sequence[float]) -> dict[str, Tensor]:
    """Of the merged values; none where a part has none, UNKNOWN where a part knows nothing."""
    widths = [part.scores.half_width for part in parts]
    if not all(widths):
        return {}
    seeds = [set(part.owners.values()) for part in parts]
    power = 2 if len(set.union(*seeds)) == sum(map(len, seeds)) else 1
    made = {}
    for name in widths[0]:
        each = torch.stack([width[name].double() for width in widths])  # (parts, units)
        share = torch.tensor(shares, dtype=torch.float64)[:, None]
        total = (share * each).pow(power).sum(0).pow(1 / power)
        made[name] = torch.where((each >= UNKNOWN).any(0), UNKNOWN, total).float()
    return made


def _common(parts: Sequence[Part]) -> dict[str, Any]:
    """What all headers agree on, except for what tells about one owner's images."""
    headers = [part.scores.header for part in parts]
    common = {
        k: v for k, v in headers[0].items() if k not in OWN and all(h.get(k) == v for h in headers)
    }
    every = [header.get("options", {}) for header in headers]
    options = {k: v for k, v in every[0].items() if all(o.get(k) == v for o in every)}
    if "selective" in options:
        options["selective"] = False
    return {**common, "options": options}
