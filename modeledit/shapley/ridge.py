"""Ridge regression on rows in pairs, its penalty chosen by the pairs left out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from modeledit.shapley import Floats

PENALTIES = (*np.logspace(-4, 1.5, 16).tolist(), 1e2, 1e4)  # in mean eigenvalues
SLACK = 0.5  # standard errors by which a stronger ridge may seem worse and still be taken
DOUBT = 1.92  # log likelihood that a penalty may fall behind the best and still be believed: 95 %
TINY = 1e-7  # singular values below it, in the largest, are 0
SINGULAR = 1e-13  # least determinant of a pair's block, against rounding; penalties leave more


@dataclass(frozen=True, eq=False)
class Chosen:
    """penalty: in squared singular values; score: see `choose`; coefficients: (r,) along the right
    singular vectors; left_out: (E,) weighted errors of pairs left out; variance: of the
    coefficients before anything was seen, the largest that the pairs left out allow."""

    penalty: float
    guess: int
    score: float
    coefficients: Floats
    left_out: Floats
    variance: float


@dataclass(frozen=True, eq=False)
class Ridge:
    """The thin singular value decomposition of a design (E, p), by the smaller Gram matrix."""

    left: Floats  # (E, r)
    values: Floats  # (r,)
    right: Floats  # (p, r)

    @classmethod
    def of(cls, design: Floats) -> Ridge:
        tall = design.shape[0] >= design.shape[1]
        squares, vectors = np.linalg.eigh(design.T @ design if tall else design @ design.T)
        values = np.sqrt(np.maximum(squares, 0))
        kept = values > TINY * max(float(values[-1]), 1e-300)
        values, vectors = values[kept], vectors[:, kept]
        other = (design if tall else design.T) @ vectors / values
        return cls(other, values, vectors) if tall else cls(vectors, values, other)

    def choose(self, targets: Floats, relevance: Floats) -> Chosen:
        """The penalty and the column of `targets` (E, g) by the errors of pairs left out.

        relevance: (E,) what an error matters for the values. The score is the mean square error
        of V(S) - V(complement), which alone decides them, in these units.
        """
        along = self.left.T @ targets  # (r, g)
        squares = self.values**2
        penalties = np.array(PENALTIES) * (float(squares.mean()) if len(squares) else 1.0)
        shape = (len(penalties), targets.shape[1])
        weighted, halves = np.empty(shape), np.empty((*shape, len(targets) // 2))
        for place, penalty in enumerate(penalties):
            errors = self._predicted(penalty, targets, along)
            weighted[place] = _apart(errors).mean(1)
            halves[place] = _apart(errors * relevance[:, None])
        place, guess = _strongest(halves)
        worst = weighted[place, guess] * math.exp(2 * DOUBT / max(len(targets) // 2, 1))
        loosest = int(np.flatnonzero(weighted[:, guess] <= worst)[0])
        penalty = float(penalties[place])
        return Chosen(
            penalty,
            guess,
            float(halves[place, guess].mean()),
            self.values / (squares + penalty) * along[:, guess],
            self._predicted(penalty, targets, along)[:, guess],
            float(weighted[loosest, guess] / penalties[loosest]),
        )

    def _predicted(self, penalty: float, targets: Floats, along: Floats) -> Floats:
        """(E, g) errors of pairs left out under a penalty."""
        kept = self.values**2 / (self.values**2 + penalty)
        return self._left_out(kept, targets - self.left @ (kept[:, None] * along))

    def _left_out(self, kept: Floats, residuals: Floats) -> Floats:
        """(E, g): what residuals become where a row and its complement are not fitted: the 2 x 2
        blocks of (1 - hat matrix) solved against them."""
        first, second = self.left[0::2], self.left[1::2]
        own_first, own_second = 1 - first**2 @ kept, 1 - second**2 @ kept
        cross = (first * second) @ kept
        det = np.maximum(own_first * own_second - cross**2, SINGULAR)[:, None]
        errors = np.empty_like(residuals)
        errors[0::2] = own_second[:, None] * residuals[0::2] + cross[:, None] * residuals[1::2]
        errors[1::2] = own_first[:, None] * residuals[1::2] + cross[:, None] * residuals[0::2]
        errors[0::2] /= det
        errors[1::2] /= det
        return errors

    def error(self, chosen: Chosen, right: Floats, variance: float) -> Floats:
        """(n,) of right @ coefficients: jackknife over pairs, and shrinkage where the coefficients
        have chosen.variance, times `variance` for the sum."""
        squares = self.values**2
        pulls = self.left * chosen.left_out[:, None]
        pairs = (pulls[0::2] + pulls[1::2]) * (self.values / (squares + chosen.penalty))
        scatter = ((pairs @ right.T) ** 2).sum(0)
        lost = chosen.penalty / (squares + chosen.penalty)
        shrunk = variance - right**2 @ (1 - lost**2)
        spread = chosen.variance * np.maximum(shrunk, 0.0)
        found: Floats = np.sqrt(scatter + spread)
        return found


def _apart(errors: Floats) -> Floats:
    """(g, E / 2): half the squared difference between a row's error and its complement's."""
    found: Floats = ((errors[0::2] - errors[1::2]) ** 2).T / 2
    return found


def _strongest(halves: Floats) -> tuple[int, int]:
    """Of (penalties, g, pairs) the guess with the least mean and the strongest penalty that is not
    beyond doubt worse for it: a ridge that noise makes look good is not taken."""
    means = halves.mean(2)
    best, guess = (int(at) for at in np.unravel_index(means.argmin(), means.shape))
    behind = halves[:, guess] - halves[best, guess]
    within = behind.mean(1) <= SLACK * behind.std(1) / math.sqrt(halves.shape[2])
    return int(np.flatnonzero(within)[-1]), guess
