"""Games of the last layers before the classifier, whose logits are affine in the coalition.

Where every unit only reaches a sum over units (a last block, its pooling, a linear classifier), the
logits of a coalition are those of nobody plus what each member adds. n + 1 evaluations of the
engine say it all, and then millions of evaluations take seconds: for references, and for runs over
many seeds. What is counted is evaluations; what is timed is the engine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from modeledit.games import FilterGame, Metric, per_image
from modeledit.shapley import Answer, Flips, Floats, Task

TOLERANCE = 1e-4  # of the largest logit
CHECKS = 30


@dataclass(frozen=True, eq=False)
class Affine:
    """none: (N, C) logits of nobody; adds: (n, N * C) what each player adds; labels: (N,).

    A pool of its own: `map` is what `modeledit.shapley.running.run` asks for. Values are means of
    the metric over all images.
    """

    none: Tensor
    adds: Tensor
    labels: Tensor
    metric: Metric
    names: tuple[str, ...]

    @classmethod
    def of(cls, game: FilterGame, metric: Metric, seed: int = 0) -> Affine:
        """Raises ValueError unless it is affine, as random coalitions of all sizes tell."""
        networks, n = game.networks, game.players
        none = networks.logits(torch.zeros(n, dtype=torch.bool))
        singles = torch.eye(n, dtype=torch.bool)
        adds = torch.stack([networks.logits(row, keep=False) - none for row in singles])
        found = cls(none, adds.flatten(1), networks.labels, metric, game.names)
        rng, gap = np.random.default_rng(seed), 0.0
        for _ in range(CHECKS):
            alive = torch.from_numpy(rng.random(n) < rng.random())
            guess = none + (alive.float() @ found.adds).reshape(none.shape)
            gap = max(gap, float((guess - networks.logits(alive)).abs().max()))
        if gap > TOLERANCE * float(none.abs().max() + adds.abs().max()):
            raise ValueError(f"not affine: logits are off by {gap:.2g}")
        return found

    @property
    def players(self) -> int:
        return len(self.adds)

    def map(self, tasks: Sequence[Task]) -> Iterator[Answer]:
        """One answer per task."""
        for task in tasks:
            values, truncated = self._of(task), False
            if task.stop is not None:
                low = values[:, 0] - task.stop.chance <= task.stop.tolerance
                row = np.convolve(low, np.ones(task.stop.patience))[: len(low)]
                ends = np.flatnonzero(row >= task.stop.patience)
                if truncated := len(ends) > 0:
                    values = values[: ends[0] + 1]
            yield Answer(task.index, values, len(values), truncated)

    def rows(self, coalitions: Floats) -> Floats:
        """(K,), as shapiq asks."""
        alive = torch.from_numpy(np.atleast_2d(coalitions).astype(np.float32))
        return np.concatenate([self._read(rows @ self.adds)[:, 0] for rows in alive.split(512)])

    def _of(self, task: Task) -> Floats:
        flips = task.coalitions
        if not isinstance(flips, Flips):
            return self.rows(flips.astype(np.float64))[:, None]
        start = torch.from_numpy(flips.start).float()
        signs = 1 - 2 * start[torch.from_numpy(flips.players)]
        if not flips.cumulative:  # each player once
            changes = signs[:, None] * self.adds[torch.from_numpy(flips.players)]
            whole = torch.cat([torch.zeros_like(changes[:1]), changes])
            return self._read(start @ self.adds + whole)[0 if task.base is not None else 1 :]
        # A walk: add up what leaves between two evaluations.
        legs = torch.bucketize(torch.arange(len(signs)), torch.from_numpy(flips.ends), right=True)
        steps = torch.zeros(len(flips.ends), self.adds.shape[1])
        steps.index_add_(0, legs, signs[:, None] * self.adds[torch.from_numpy(flips.players)])
        return self._read(start @ self.adds + steps.cumsum(0))

    def _read(self, added: Tensor) -> Floats:
        """(K, 1) from (K, N * C)"""
        logits = (self.none.flatten() + added).reshape(-1, self.none.shape[1])
        numbers = per_image(logits, self.labels.repeat(len(added)), self.metric)
        found: Floats = numbers.double().reshape(len(added), -1).mean(1, keepdim=True).numpy()
        return found
