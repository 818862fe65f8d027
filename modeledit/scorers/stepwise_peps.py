"""Selective PEPS, scored again after every small edit; the default for class unlearning.

A weight's score tells when it is zeroed: the scorer plays the edit through on a copy, in rounds.
Ours; a round scores like selective `peps`, with losses in place of margins, so that those images
which are still recognised, and retained images near the boundary, count most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from modeledit.gradients import scalar
from modeledit.scorers import Found, Job, Scorer
from modeledit.scorers._options import non_negative, positive, refuse, share, whole
from modeledit.scorers._vector import Vector, last
from modeledit.tail import Piece, Tail
from modeledit.targets import Accuracy, AttackSuccess, ForgetClass, Mask, Target
from modeledit.types import Granularity

GROUP = 32  # retained images per gradient whose square is taken


@dataclass(frozen=True)
class StepwisePeps(Scorer):
    """values: how many weights go from this one on, 0 = never zeroed; raw: the first round's score.

    Each round takes L_f = mean softplus(margin + kappa) on images to forget and L_r = cross-entropy
    on images to retain, and scores weight i by the first-order gain of setting it to zero over its
    typical effect on the retained images,

        (theta_i dL_f/dtheta_i + lam theta_i dL_r/dtheta_i) / (d_i + mean d),
        d_i = |theta_i| sqrt(E g_i^2),  g of L_r over groups of 32 images.

    It zeroes the best until `gain` of L_f is predicted to be gone, at most `step` times the square
    root of the number of scored weights (a share of them would be too few in a small network, and
    too many for first-order scores in a large one), and goes on until L_f <= `enough` or for
    `rounds`.

    share: scored are the last convolution and linear matrices before the classifier, as many as
        hold this share of all their weights.
    inputs, retain_inputs: images to draw from; each round sees a fresh `fraction` of them.
    along: for attacks, images shown on the way from each clean image to the attacked one, which is
        the last. deepest: in each round those of a larger margin wait, so that L_f is the mean over
        the others; what an attack has pushed far into its target is then moved by its images at the
        boundary, and waits for its turn. None: no image waits.
    """

    granularities: ClassVar[tuple[Granularity, ...]] = ("weight",)
    targets: ClassVar[tuple[type[Target], ...]] = (ForgetClass, Accuracy, AttackSuccess)
    ordered: ClassVar[bool] = True
    share: float = 0.5
    inputs: int = 512
    retain_inputs: int = 3072
    fraction: float = 0.4
    rounds: int = 40
    kappa: float = 2.0
    lam: float = 5.0
    gain: float = 0.5
    step: float = 0.5
    enough: float = 0.03
    along: int = 1
    deepest: float | None = None
    cache_mb: int = 1024

    def __post_init__(self) -> None:
        for option in ("inputs", "retain_inputs", "rounds", "along"):
            whole(option, getattr(self, option), 1)
        whole("cache_mb", self.cache_mb, 0)
        for option in ("kappa", "lam", "enough"):
            non_negative(option, getattr(self, option))
        positive("step", self.step)
        if self.deepest is not None:
            positive("deepest", self.deepest)
        for option in ("share", "fraction", "gain"):
            share(option, getattr(self, option))

    def passes(self, shown: int, others: int, tensors: int) -> int:
        """See the base."""
        del tensors
        pool = min(self.inputs, shown) + min(self.retain_inputs, others)
        return pool + math.ceil(3 * self.rounds * self.fraction * pool)

    def steps_along(self) -> int:
        """See the base."""
        return self.along

    def run(self, job: Job) -> Found:
        """Play the edit through on the job's copy and write down when each weight went."""
        shown = job.target.mask(job.split.labels)
        refuse(
            bool(shown.all()) and job.retain is None,
            f"every example of the {job.split.name} split shows {job.target}, so none is left "
            "to retain: use another scorer",
        )
        names = last(job.anatomy.weights, job.original, self.share)
        play = _Play(self, job, names, shown)
        order = play.order()
        values = torch.zeros(play.vector.size)
        values[order] = torch.arange(len(order), 0, -1, dtype=torch.float32)
        never = {name: torch.zeros(job.original[name].shape) for name in job.anatomy.weights}
        return Found(
            values=never | play.vector.by_name(values),
            raw=never | play.vector.by_name(play.first),
            header={"allocation": "global", "steps": play.steps},
        )


class _Play:
    """One run of the rounds; the weights are one long vector over `names`."""

    def __init__(self, options: StepwisePeps, job: Job, names: Sequence[str], shown: Mask) -> None:
        self._options = options
        self._runtime = job.runtime
        self.vector = Vector(job.model, names)
        self._magnitude = self.vector.values().abs()
        self._square = torch.zeros_like(self._magnitude)  # sum over rounds of E g^2
        self.first = torch.zeros(self.vector.size)
        self.steps: list[int] = []  # weights zeroed by the end of each round
        self._forget, self._retain = self._tails(job, names, shown)

    def _tails(self, job: Job, names: Sequence[str], shown: Mask) -> tuple[Tail, Tail]:
        options = self._options
        parts = (job.split.where(shown), job.retain or job.split.where(~shown))
        drawn = [
            part.sample(count, job.runtime.seed)
            for part, count in zip(parts, (options.inputs, options.retain_inputs), strict=True)
        ]
        runtime = replace(job.runtime, batch_size=GROUP)
        limit = options.cache_mb * 2**20 // 2
        with job.runtime.progress.stage("first layers", sum(map(len, drawn))) as tick:
            forget, retain = (
                Tail(job.model, names, split.batches(runtime, shuffle=True), runtime, tick, limit)
                for split in drawn
            )
        refuse(
            not (forget.pieces and retain.pieces),
            f"cache_mb={options.cache_mb} does not hold what {GROUP} images need: give more",
        )
        return forget, retain

    def order(self) -> Tensor:
        """(k,) int64 positions in the order in which they are zeroed."""
        taken = [torch.empty(0, dtype=torch.int64)]
        with self._runtime.progress.stage("rounds of scoring", self._options.rounds) as tick:
            for number in range(self._options.rounds):
                chosen = self._round(number)
                tick(1)
                if chosen is None:
                    break
                self.vector.zero(chosen)
                taken.append(chosen.cpu())
                self.steps.append(sum(map(len, taken)))
        return torch.cat(taken)

    def _round(self, number: int) -> Tensor | None:
        """Positions to zero now, best first; None when enough is forgotten or nothing helps."""
        options = self._options
        loss, forget = self._forget_gradient(number)
        retain = self._retain_gradient(number)
        weights = self.vector.values()
        gain = weights * forget  # what L_f loses, to first order, when the weight is set to 0
        typical = self._magnitude * (self._square / (number + 1)).sqrt()
        floor = torch.finfo(typical.dtype).tiny
        score = (gain + options.lam * weights * retain) / (typical + typical.mean() + floor)
        if number == 0:
            self.first = score.cpu()
        most = math.ceil(options.step * math.sqrt(self.vector.size))
        best = score.topk(min(self.vector.size, most))
        wanted = int((gain[best.indices].cumsum(0) < options.gain * loss).sum()) + 1
        helpful = int((best.values > 0).sum())
        if loss <= options.enough or not helpful:
            return None
        return best.indices[: min(wanted, helpful)]

    def _forget_gradient(self, number: int) -> tuple[float, Tensor]:
        """L_f on this round's images and its gradient."""
        total, gradient, count = 0.0, torch.zeros_like(self._magnitude), 0
        for piece in self._draw(self._forget, 2 * number):
            margin = scalar(
                self._forget.logits(piece, self._runtime, backward=True), piece.labels, "margin"
            )
            if self._options.deepest is not None:
                margin = margin[margin.detach() <= self._options.deepest]
            loss = F.softplus(margin + self._options.kappa).sum()
            gradient += self.vector.gradient(loss)
            total += float(loss.detach())
            count += len(margin)
        return total / max(count, 1), gradient / max(count, 1)

    def _retain_gradient(self, number: int) -> Tensor:
        """The gradient of L_r on this round's images; its groups' squares are accumulated."""
        gradient, square = torch.zeros_like(self._magnitude), torch.zeros_like(self._magnitude)
        count = 0
        for piece in self._draw(self._retain, 2 * number + 1):
            logits = self._retain.logits(piece, self._runtime, backward=True)
            group = self.vector.gradient(F.cross_entropy(logits, piece.labels, reduction="sum"))
            gradient += group
            square.addcmul_(group, group)
            count += len(piece.labels)
        self._square += square / count
        return gradient / count

    def _draw(self, tail: Tail, salt: int) -> list[Piece]:
        """A fresh share of the groups of images."""
        count = math.ceil(self._options.fraction * len(tail.pieces))
        order = torch.randperm(len(tail.pieces), generator=self._runtime.generator(salt))
        return [tail.pieces[i] for i in order[:count].tolist()]
