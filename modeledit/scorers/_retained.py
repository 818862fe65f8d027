"""The order in which to pin units for class targets: the most effect for the least harm.

A unit that serves a class serves others, too, and the most useful ones serve all. So a unit's
effect on the class is held against its typical effect on images of other classes. Both depend on
what else is pinned, and are measured anew after every few units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modeledit.data import Batch
from modeledit.games import Floats, per_image
from modeledit.gate_orders import Fade
from modeledit.gate_path import Gated
from modeledit.gate_slopes import image_slopes
from modeledit.scorers import Job
from modeledit.scorers._games import Table, numbered
from modeledit.targets import ForgetClass, Mask
from modeledit.types import Unit

OWN = 64  # images of the class, at most
IMAGES = 384  # of other classes, at most
GROUP = 8  # images of one class or two whose effects are averaged before they are squared
AT_ONCE = 64  # images in a pass, at most
ROUNDS = 16
SHARE = 128  # a round pins one in so many units, at least 1
NEAR = 0.9  # where the gates of units that are alive stand: effects of more than a touch
RISE = 0.02  # of the mean loss on others, in nats: what one round may cost
FLOOR = 0.01  # of the mean effect: units without any effect on others get no huge score
CHECKS = 40  # of the loss, in all
GONE = 3.5  # standard deviations of a margin below 0: 2 of 10,000 images would be recognised
TINY = float(np.finfo(np.float32).tiny)


def ranked(
    job: Job, table: Table, units: Sequence[Unit], values: Floats, *, sampled: bool = False
) -> Floats:
    """(n,) in (0, 1]: 1 for the unit to pin first, and equal steps down from there.

    A unit gains its value over its typical effect on others, plus FLOOR times the mean of that.
    `sampled` values are noisy, and noise over a small effect would come first: instead of the value
    it is then the geometric mean of it and the unit's effect on the class, where both are positive.
    An effect is the slope of a mean margin in the unit's gate while units of earlier rounds are
    off, the typical one a root mean square over small groups of images. A slope cannot see a cliff:
    units of a round that raise the loss of others by more than RISE come last. Once the classes are
    gone there are half as many rounds more; beyond the last one, by its effects. `values`
    themselves for targets that leave nothing to retain.
    """
    if not isinstance(job.target, ForgetClass):
        return values
    shown = job.target.mask(job.split.labels)
    if shown.all():
        return values
    gated = Gated.of(job.model, job.anatomy, table.layers, table.means)
    bench = _Bench(
        job,
        gated,
        [Fade.of(job.model, gated, layer) for layer in gated.layers],
        _images(job, ~shown, IMAGES),
        table.places(units),
    )
    order = _order(bench, _images(job, shown, OWN), values, sampled)
    ranks = np.empty(len(units))
    ranks[order] = 1 - np.arange(len(units)) / len(units)
    return ranks


def _order(bench: _Bench, wanted: Sequence[Batch], values: Floats, sampled: bool) -> list[int]:
    """All units, the first to pin first."""
    everybody = np.arange(len(values))
    size = max(1, len(values) // SHARE)
    last = rounds = min(ROUNDS, -(-len(values) // size))
    order: list[int] = []
    refused: list[int] = []
    with bench.job.runtime.progress.stage("effects on other classes", rounds) as tick:
        for done in range(1, rounds + 1):
            left = np.setdiff1d(everybody, order + refused)
            gain = values[left]
            if sampled:
                gain = _agreed(gain, bench.slopes(order, wanted).mean(0)[left])
            typical = _typical(bench.slopes(order, bench.others))[left]
            gain = gain / np.maximum(typical + FLOOR * typical.mean(), TINY)
            following: list[int] = left[np.argsort(-gain, kind="stable")].tolist()
            taken = bench.bearable(order, following[:size])
            order += taken
            refused += [i for i in following[:size] if i not in taken]
            tick(1)
            if last == rounds and bench.gone(order, wanted):
                last = done + done // 2  # a search for the strength looks beyond
            if done >= last or bench.checks <= 0:
                break
    return order + following[size:] + refused


@dataclass
class _Bench:
    """Networks with some units pinned, on images of other classes; units by their position."""

    job: Job
    gated: Gated
    fades: Sequence[Fade]
    others: tuple[Batch, ...]
    places: npt.NDArray[np.int64]  # of the units, among all of the layers
    checks: int = CHECKS  # that are left
    _now: float | None = None  # the loss of what was last found bearable

    def slopes(self, pinned: Sequence[int], batches: Sequence[Batch]) -> Floats:
        """(images, n) of each image's margin in the units' gates; 0 in those of pinned ones."""
        gates = NEAR * self._alive(pinned)
        model, runtime = self.job.model, self.job.runtime
        rows = [
            image_slopes(model, self.gated, self.fades, gates, batch, _margin, runtime)
            for batch in batches
        ]
        found: Floats = torch.cat(rows).numpy()[:, self.places]
        return found

    def bearable(self, pinned: list[int], candidates: list[int]) -> list[int]:
        """Those of the candidates that together raise the loss by RISE at most, in their order; the
        harmful ones among them are found by halving, and those for which no checks are left are
        not among them. `pinned` ends with what was found before."""
        now = self.loss(pinned) if self._now is None else self._now
        limit = now + RISE
        taken: list[int] = []
        waiting = [candidates]
        while waiting and self.checks > 0:
            some = waiting.pop(0)
            self.checks -= 1
            found = self.loss(pinned + taken + some, limit)
            if found <= limit:
                taken, now = taken + some, found
            elif len(some) > 1:
                half = len(some) // 2
                waiting = [some[:half], some[half:], *waiting]
        self._now = now
        return taken

    def gone(self, pinned: Sequence[int], wanted: Sequence[Batch]) -> bool:
        """Whether next to no image of any of the classes is recognised."""
        margins = torch.cat([_margin(self._logits(pinned, b), b.labels).cpu() for b in wanted])
        labels = torch.cat([batch.labels.cpu() for batch in wanted])
        each = [margins[labels == label] for label in sorted(set(labels.tolist()))]
        return all(bool(m.mean() < -GONE * m.std(correction=0)) for m in each)

    def loss(self, pinned: Sequence[int], limit: float = math.inf) -> float:
        """The mean cross-entropy, or some number above the limit where it is above."""
        total, count = 0.0, sum(len(batch.labels) for batch in self.others)
        for batch in self.others:
            logits = self._logits(pinned, batch)
            total -= float(per_image(logits, batch.labels, "loss").sum())
            if total / count > limit:
                break
        return total / count

    def _logits(self, pinned: Sequence[int], batch: Batch) -> Tensor:
        theta = self.gated.at(self._alive(pinned))
        self.job.runtime.meter.forward(len(batch.labels))
        with torch.no_grad():
            return self.gated.logits(self.job.model, theta, batch.images)

    def _alive(self, pinned: Sequence[int]) -> Tensor:
        """(all units of the layers,) 1.0, or 0.0 for the pinned ones."""
        alive = torch.ones(sum(layer.units for layer in self.gated.layers))
        alive[self.places[list(pinned)]] = 0.0
        return alive


def _agreed(values: Floats, effect: Floats) -> Floats:
    both = np.sqrt(np.abs(values * effect))
    agreed: Floats = np.where(
        (values > 0) & (effect > 0), both, np.minimum(np.minimum(values, effect), 0.0)
    )
    return agreed


def _typical(effects: Floats) -> Floats:
    """(n,) root mean square over groups of images, (images, n), of which each has its mean."""
    starts = np.arange(0, len(effects), GROUP)
    sizes = np.diff(starts, append=len(effects))[:, None]
    typical: Floats = np.sqrt(np.square(np.add.reduceat(effects, starts) / sizes).mean(0))
    return typical


def _images(job: Job, mask: Mask, count: int) -> tuple[Batch, ...]:
    """Batches ordered by class."""
    split = job.split.where(mask)
    chosen = split.sample(min(count, len(split)), job.runtime.seed)
    by_class = chosen.subset(np.argsort(chosen.labels, kind="stable"))
    size = min(AT_ONCE, job.runtime.batch_size)
    return numbered(by_class, replace(job.runtime, batch_size=size))[0]


def _margin(logits: Tensor, labels: Tensor) -> Tensor:
    return per_image(logits, labels, "margin")


def ranked_passes(shown: int, others: int, *, sampled: bool = False) -> int:
    """Forward-equivalent images that `ranked` takes, at most."""
    own, rest = min(OWN, shown), min(IMAGES, others)
    slopes_of = rest + (own if sampled else 0)
    return ROUNDS * (3 * slopes_of + own) + (CHECKS + 1) * rest
