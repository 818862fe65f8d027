"""Shapley values by regression on coalitions, with effects that vary with the coalition's size.

Among the coalitions of one size t, regress V on membership: slopes beta(t), (n,), with sum 0. Then,
exactly,

    phi_i = (V(all) - V(none)) / n + mean over t = 1..n-1 of beta_i(t),

and what depends on the size alone plays no part but noise, so it is taken out first. The slopes are
modelled as beta_i(t) = c(t) * sum over k of gamma_ik P_k(t): P_k are Legendre polynomials of t, and
c(t) is how steeply the mean of V rises at size t, since a network whose accuracy is at chance does
not tell its filters apart. Ridge, with weights by the noise of each size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from modeledit.shapley import Bools, Floats, Ints
from modeledit.shapley.ridge import Ridge

STIFFNESS = (0.03, 0.3, 3.0)  # variance of the terms k > 0, in that of k = 0
SCALES = (0.0, 0.5, 0.75, 1.0, 1.25)  # how much of the prior is believed
FLOOR = 0.1  # least c(t), in mean slopes
PASSES = 2  # to find the noise of each size
QUIETEST = 0.01  # least noise of a size, in the largest


@dataclass(frozen=True, eq=False)
class Sample:
    """Values of coalitions in pairs: row 2j + 1 is the complement of row 2j.

    rows: (E, n) bool, neither full nor empty; values: (E,); known: (E,), False for one that was not
    evaluated. none, everybody: V of the empty and of the full coalition.
    """

    rows: Bools
    values: Floats
    known: Bools
    none: float
    everybody: float

    @property
    def players(self) -> int:
        return int(self.rows.shape[1])

    @cached_property
    def sizes(self) -> Ints:
        found: Ints = self.rows.sum(1, dtype=np.int64)
        return found

    @cached_property
    def centred(self) -> Floats:
        """(E, n): membership, less its mean over the coalitions of that size."""
        return self.rows - (self.sizes / self.players)[:, None]

    @property
    def share(self) -> float:
        return (self.everybody - self.none) / self.players


@dataclass(frozen=True, eq=False)
class Fit:
    """slopes: (n,) mean of beta(t) over t; error: (n,) their standard errors; left_out: (E,) errors
    of prediction where the pair had been left out; score: how large, see `Ridge.choose`."""

    slopes: Floats
    error: Floats
    left_out: Floats
    score: float


def regress(sample: Sample, prior: Floats | None) -> tuple[Floats, Floats]:
    """(n,) values that add up to V(all) - V(none), and (n,) approximate standard errors.

    prior: (n, p) guesses of the values. The ridge pulls towards that one, or towards their mean,
    which the pairs left out confirm best, and as far as they do; without any towards equal shares.

    The errors are those of a jackknife over pairs at the chosen ridge, plus the shrinkage to be
    expected under the largest prior variance that the pairs left out do not refute. Infinite below
    6 evaluations.
    """
    n, count = sample.players, int(sample.known.sum())
    guesses = np.zeros((n, 1)) if prior is None else prior - prior.mean(0)
    middle = guesses.mean(1, keepdims=True)
    if count < 6:
        return middle[:, 0] + sample.share, np.full(n, np.inf)
    if guesses.shape[1] > 1:
        guesses = np.concatenate([guesses, middle], axis=1)
    problem, noise = _Problem.of(sample, guesses, np.zeros(len(sample.rows))), np.ones(n + 1)
    for _ in range(PASSES):
        fit = problem.fit(noise, 1, 1.0)
        noise = problem.noise(fit.left_out)
        problem = _Problem.of(sample, guesses, problem.rest - fit.left_out)
    flat = replace(problem, rises=np.ones(n + 1))
    fits = [flat.fit(np.ones(n + 1), 1, 1.0), problem.fit(noise, 1, 1.0)]
    terms = min(n - 1, 1 + math.isqrt(count // (4 * n)))
    if terms > 1:
        fits += [problem.fit(noise, terms, stiffness) for stiffness in STIFFNESS]
    best = min(fits, key=lambda fit: fit.score)
    return best.slopes - best.slopes.mean() + sample.share, best.error


def enumerated(sample: Sample) -> Floats:
    """(n,) exact values, where the sample holds each coalition once."""
    n, sizes = sample.players, sample.sizes
    count = np.bincount(sizes, minlength=n + 1)[sizes]
    weight = n / (sizes * (n - sizes) * count)
    found: Floats = sample.centred.T @ (weight * sample.values) + sample.share
    return found


def size_mean(sample: Sample, explained: Floats | float = 0.0) -> Floats:
    """(n + 1,) smoothed mean by size, 0..n, of V less what is `explained`, (E,): lines fitted with
    Gaussian weights."""
    n = sample.players
    x = np.concatenate([sample.sizes, [0, n]])
    y = np.concatenate([sample.values - explained, [sample.none, sample.everybody]])
    trust = np.concatenate([sample.known, [20, 20]])  # sizes that have one coalition: no scatter
    width = max(1.0, n / 16, 2 * n / max(int(sample.known.sum()), 1))
    away = x - np.arange(n + 1)[:, None]  # (n + 1, E + 2)
    weight = np.exp(-0.5 * (away / width) ** 2) * trust
    s0, s1, s2 = weight.sum(1), (weight * away).sum(1), (weight * away**2).sum(1)
    found: Floats = (s2 * (weight @ y) - s1 * ((weight * away) @ y)) / (s0 * s2 - s1**2 + 1e-12)
    return found


@dataclass(frozen=True, eq=False)
class _Problem:
    """rest: (E,) values less the mean of their size; rises: (n + 1,) c(t), mean 1 over 1..n-1;
    guesses: (n, g) slopes to start from."""

    sample: Sample
    rest: Floats
    rises: Floats
    guesses: Floats

    @classmethod
    def of(cls, sample: Sample, guesses: Floats, explained: Floats) -> _Problem:
        """explained: (E,) what the members say of each value, fitted without it."""
        mean = size_mean(sample, explained)
        rest = np.where(sample.known, sample.values - mean[sample.sizes], 0.0)
        rises = np.abs(np.gradient(mean))
        rises = rises + FLOOR * rises.mean() if rises.any() else np.ones_like(rises)
        scales = SCALES if guesses.any() else (0.0,)
        scaled = np.concatenate([scale * guesses for scale in scales], axis=1)
        return cls(sample, rest, rises / rises[1:-1].mean(), scaled)

    def noise(self, left_out: Floats) -> Floats:
        """(n + 1,) mean square of these errors by size, smoothed, mean 1."""
        n, sample = self.sample.players, self.sample
        away = sample.sizes - np.arange(n + 1)[:, None]
        weight = np.exp(-0.5 * (away / max(1.0, n / 12)) ** 2) * sample.known
        found = (weight @ left_out**2) / np.maximum(weight.sum(1), 1e-300)
        found = np.maximum(found, QUIETEST * found.max())
        return found / found.mean() if found.any() else np.ones(n + 1)

    def fit(self, noise: Floats, terms: int, stiffness: float) -> Fit:
        """With the polynomials up to `terms` - 1; of all penalties and guesses the best."""
        # E rows, n players, K terms, r rank, g guesses
        sample, n, sizes = self.sample, self.sample.players, self.sample.sizes
        weight = sample.known / np.sqrt(noise[sizes])
        powers = np.polynomial.legendre.legvander(2 * np.arange(n + 1) / n - 1, terms - 1)
        basis = self.rises[:, None] * powers * np.sqrt([1.0, *[stiffness] * (terms - 1)])
        reach = basis[1:n].mean(0)  # (K,)
        parts = [sample.centred * (weight * basis[sizes, k])[:, None] for k in range(terms)]
        ridge = Ridge.of(np.concatenate(parts, axis=1))
        started = (sample.centred @ self.guesses) * self.rises[sizes, None]  # (E, g)
        targets = weight[:, None] * (self.rest[:, None] - started)
        inverse = np.divide(1.0, weight, out=np.zeros_like(weight), where=weight > 0)
        chosen = ridge.choose(targets, inverse / np.sqrt(sizes * (n - sizes)))
        right = np.einsum("k,knr->nr", reach, ridge.right.reshape(terms, n, -1))  # (n, r)
        slopes = self.guesses[:, chosen.guess] + right @ chosen.coefficients
        error = ridge.error(chosen, right, float((reach**2).sum()))
        return Fit(slopes, error, chosen.left_out * inverse, chosen.score)
