"""Cells of images, and what a state of the network is worth to them: some gain, none shall pay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from modeledit.data import Batch, Split
from modeledit.data.cutting import draw
from modeledit.errors import DataError
from modeledit.games import Floats
from modeledit.runtime import Runtime
from modeledit.scorers import Job
from modeledit.scorers._games import numbered
from modeledit.scorers._options import refuse
from modeledit.targets import AttackSuccess, GroupRecall, Mask, Target

Kind = Literal["levelled", "forgotten", "kept"]
EVEN = 0.06  # the worst group is a soft maximum: one whose error is so much lower counts 1/e of it


class Part(NamedTuple):
    """One cell in its split: (n,) which examples, and what is to become of them."""

    name: str
    kind: Kind
    rows: Mask


@dataclass(frozen=True, eq=False)
class Cells:
    """Groups or classes of N images. members: (k, N) bool. worst: whether the worst of the levelled
    cells counts, or their mean."""

    names: tuple[str, ...]
    kinds: tuple[Kind, ...]
    members: npt.NDArray[np.bool_]
    worst: bool

    @classmethod
    def of(cls, job: Job, images: int, retained: int) -> tuple[tuple[Batch, ...], Cells]:
        """At most `images` of the cells to change and `retained` others, from each cell as many,
        and no more than it has; read into memory."""
        sources = _sources(job)
        every = [part for _, own in sources for part in own]
        share = {
            kept: limit // max(sum((part.kind == "kept") == kept for part in every), 1)
            for kept, limit in ((False, images), (True, retained))
        }
        batches: list[Batch] = []
        codes: list[npt.NDArray[np.int64]] = []
        first = 0
        for split, own in sources:
            counts = [max(share[part.kind == "kept"], 1) for part in own]
            found, cell = _read(split, own, counts, job.runtime, sum(map(len, codes)))
            batches += found
            codes.append(cell + first)
            first += len(own)
        members = np.concatenate(codes) == np.arange(len(every))[:, None]
        names, kinds = tuple(part.name for part in every), tuple(part.kind for part in every)
        return tuple(batches), cls(names, kinds, members, job.target == GroupRecall("worst"))

    @cached_property
    def changed(self) -> npt.NDArray[np.bool_]:
        """(k,) the cells that an edit is for."""
        return np.array([kind != "kept" for kind in self.kinds])

    @cached_property
    def signs(self) -> Floats:
        """(N,) 1 for images that are to be misclassified, -1 for all others."""
        forgotten = np.array([kind == "forgotten" for kind in self.kinds])
        return np.where(self.members[forgotten].any(0), 1.0, -1.0)

    @cached_property
    def _means(self) -> Floats:
        """(N, k)"""
        weights: Floats = self.members / self.members.sum(1, keepdims=True)
        return weights.T

    def losses(self, errors: Floats) -> Floats:
        """(..., k) mean errors of the cells, from those of the images (..., N)."""
        found: Floats = errors @ self._means
        return found

    def goal(self, losses: Floats) -> Floats:
        """(...): the mean loss of the cells to change, or their soft maximum, from (..., k)."""
        own = losses[..., self.changed]
        if not self.worst:
            return np.asarray(own.mean(-1))
        most = own.max(-1)
        return np.asarray(most + EVEN * np.log(np.exp((own - most[..., None]) / EVEN).mean(-1)))

    def prices(self, losses: Floats) -> Floats:
        """(k,) summing to 1: the slopes of the goal in the cells' losses."""
        prices = np.zeros(len(losses))
        own = losses[self.changed]
        worth = np.exp((own - own.max()) / EVEN) if self.worst else np.ones(len(own))
        prices[self.changed] = worth / worth.sum()
        return prices

    def keepers(self, losses: Floats) -> Floats:
        """(k,) summing to 1: how much the answers of each cell are to stay what they are, given the
        losses at the beginning; all 0 where nobody's are."""
        free = np.array([0.0 if kind == "forgotten" else 1.0 for kind in self.kinds])
        weights = free * (1 - self.prices(losses))
        total = weights.sum()
        return weights / total if total else weights


def parts(split: Split, target: Target) -> list[Part]:
    """The cells of a split: groups for targets that compare them, else classes."""
    if not isinstance(target, GroupRecall):
        return _classes(split.labels, set(split.labels[target.mask(split.labels)].tolist()))
    if split.groups is None:
        raise DataError(
            f"{target} compares groups, and the data has none: name their column with "
            "--group-column"
        )
    names = np.unique(split.groups)
    refuse(
        len(names) < 2,
        f"all images are of group {str(names[0])!r}: {target} compares two groups or more",
    )
    return [Part(str(g), "levelled", split.groups == g) for g in names]


def _sources(job: Job) -> list[tuple[Split, list[Part]]]:
    """The splits that images come from, with their cells."""
    if not isinstance(job.target, AttackSuccess):
        return [(job.split, parts(job.split, job.target))]
    attacked = Part("attacked", "forgotten", np.ones(len(job.split), dtype=bool))
    clean = [] if job.retain is None else [(job.retain, _classes(job.retain.labels, set()))]
    return [(job.split, [attacked]), *clean]


def _classes(labels: npt.NDArray[np.int64], forgotten: set[int]) -> list[Part]:
    return [
        Part(f"class:{c}", "forgotten" if c in forgotten else "kept", labels == c)
        for c in np.unique(labels).tolist()
    ]


def _read(
    split: Split, parts: Sequence[Part], counts: Sequence[int], runtime: Runtime, start: int
) -> tuple[tuple[Batch, ...], npt.NDArray[np.int64]]:
    """Batches of images drawn from each part, numbered from `start` on, and each image's part."""
    chosen, codes = [], []
    for place, (part, count) in enumerate(zip(parts, counts, strict=True)):
        rows = np.flatnonzero(part.rows)
        some = rows[draw(split.labels[rows], count, (runtime.seed, 3, place))]
        chosen.append(some)
        codes.append(np.full(len(some), place))
    order = np.argsort(np.concatenate(chosen))
    batches, positions = numbered(split.subset(np.concatenate(chosen)[order]), runtime, start)
    return batches, np.concatenate(codes)[order][positions]
