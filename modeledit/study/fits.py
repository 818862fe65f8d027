"""Which parametric family a sample looks like: fitted to one half, tested on the other."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]
Support = Literal["real", "positive", "sides"]  # any number, >= 0, or -1..1
FAMILIES: dict[Support, tuple[str, ...]] = {
    "real": ("t", "normal"),
    "positive": ("gamma", "t", "normal"),
    "sides": ("beta", "t", "normal"),
}
_LAWS = {"t": stats.t, "gamma": stats.gamma, "beta": stats.beta, "normal": stats.norm}
LEAST = 20  # values, of which half are fitted


@dataclass(frozen=True)
class Fit:
    """parameters: scipy's shapes, location and scale, for the values as they are.

    distance: Kolmogorov-Smirnov's D of the half that was not fitted, in 0..1, smaller = closer;
    p: of that test, valid since those values took no part in the fit.
    """

    family: str
    parameters: tuple[float, ...]
    distance: float
    p: float
    tested: int

    def density(self, edges: Floats) -> Floats:
        """(bins,) the fitted density, averaged over each bin like a histogram's bar."""
        below = _LAWS[self.family].cdf(edges, *self.parameters)
        found: Floats = np.diff(below) / np.diff(edges)
        return found


def fit(values: Floats, support: Support, seed: int) -> tuple[Fit, ...]:
    """Maximum likelihood for each family of the support, the closest first.

    Gamma starts at 0 and beta spans -1 to 1 (values at the ends are drawn in by half a rank, after
    Smithson & Verkuilen 2006). Nothing where fewer than 20 values or a single number are given, and
    no family that scipy cannot fit.
    """
    if len(values) < LEAST or float(np.ptp(values)) == 0:
        return ()
    order = np.random.default_rng([seed, len(values)]).permutation(len(values))
    fitted, held = np.array_split(values[order], 2)
    if float(np.ptp(fitted)) == 0:
        return ()
    found = []
    for family in FAMILIES[support]:
        parameters = _parameters(family, fitted)
        if parameters is None:
            continue
        test = stats.kstest(held, _LAWS[family].cdf, args=parameters)
        made = Fit(family, parameters, float(test.statistic), float(test.pvalue), len(held))
        found.append(made)
    return tuple(sorted(found, key=lambda made: made.distance))


def _parameters(family: str, values: Floats) -> tuple[float, ...] | None:
    unit = 1.0 if family == "beta" else float(np.median(np.abs(values))) or float(values.std())
    scaled = values / unit  # gradients can be so small that the optimiser takes them for 0
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            if family == "gamma":
                found = stats.gamma.fit(scaled[scaled > 0], floc=0)
            elif family == "beta":
                n = len(values)
                inside = ((values + 1) / 2 * (n - 1) + 0.5) / n
                found = stats.beta.fit(inside, floc=0, fscale=1)
                found = (*found[:2], -1.0, 2.0)
            else:
                found = _LAWS[family].fit(scaled)
        except (ValueError, RuntimeError):  # scipy found no optimum
            return None
    *shapes, location, scale = (float(number) for number in found)
    parameters = (*shapes, location * unit, scale * unit)
    if not np.isfinite(parameters).all() or parameters[-1] <= 0:
        return None
    return parameters
