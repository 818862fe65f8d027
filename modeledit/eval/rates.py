"""From answers to counts by group, and from counts to rates and fairness metrics."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modeledit.errors import DataError

Ints = npt.NDArray[np.int64]
Names = npt.NDArray[np.str_]
Floats = npt.NDArray[np.float64]
KINDS = 5  # of answers, for `counted`


def coded(groups: Names | None, *columns: Ints) -> tuple[list[str], Ints]:
    """Sorted names of the groups, and the (n,) positions of the images' groups among them."""
    if groups is None:
        raise DataError(
            "fairness compares groups, and the data has none: name their column with --group-column"
        )
    lengths = sorted({len(groups), *map(len, columns)})
    if len(lengths) > 1 or lengths[0] == 0:
        raise DataError(
            f"labels, predictions and groups have {' and '.join(map(str, lengths))} entries: "
            "give one of each per image, and at least one image"
        )
    names, codes = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    if len(names) < 2:
        raise DataError(
            f"all images are of group {str(names[0])!r}: fairness compares two groups or more, "
            "use another group column or more images"
        )
    return names.tolist(), codes.astype(np.int64)


def counted(labels: Ints, predictions: Ints, codes: Ints, positive: int) -> Floats:
    """(groups, 5): positives predicted so and not; others predicted positive, right, and wrong."""
    return table(codes, kinds_of(labels, predictions, positive), int(codes.max()) + 1, KINDS)


def kinds_of(labels: Ints, predictions: Ints, positive: int) -> Ints:
    """(n,) the column of `counted` that each image counts in."""
    told = predictions == positive
    other = np.where(told, 2, np.where(predictions == labels, 3, 4))
    return np.where(labels == positive, np.where(told, 0, 1), other)


def table(codes: Ints, kinds: Ints, groups: int, width: int) -> Floats:
    """(groups, width) how many images of each group are of each kind."""
    flat = np.bincount(codes * width + kinds, minlength=groups * width)
    return flat.reshape(groups, width).astype(np.float64)


def resampled(counts: Floats, generator: np.random.Generator, draws: int) -> Floats:
    """(draws, groups, kinds): a bootstrap sample of a group's images is a multinomial draw."""
    n = counts.sum(1, keepdims=True).astype(np.int64)
    drawn = [
        generator.multinomial(size, row / row.sum(), draws)
        for size, row in zip(n[:, 0], counts, strict=True)
    ]
    return np.stack(drawn, axis=1).astype(np.float64)


def rates_of(counts: Floats) -> dict[str, Floats]:
    """(..., groups) each from (..., groups, 5); NaN where the denominator is 0."""
    hit, miss, false, right, wrong = np.moveaxis(counts, -1, 0)
    n = counts.sum(-1)
    return {
        "recall": (hit + right) / n,
        "selection_rate": (hit + false) / n,
        "true_positive_rate": _ratio(hit, hit + miss),
        "false_positive_rate": _ratio(false, false + right + wrong),
    }


def worst(counts: Floats) -> int:
    """The group of the least recall; of several, the largest, and of those the first."""
    recall = rates_of(counts)["recall"]
    return int(np.lexsort((-counts.sum(-1), recall))[0])


def metrics_of(counts: Floats) -> dict[str, Floats]:
    """(...) each from (..., groups, 5), over the groups that have the rates."""
    rates = rates_of(counts)
    gap = {name: _gap(values) for name, values in rates.items()}
    opportunity = gap["true_positive_rate"]
    right = counts[..., 0] + counts[..., 3]
    return {
        "accuracy_score": right.sum(-1) / counts.sum((-2, -1)),
        "accuracy_score_group_mean": rates["recall"].mean(-1),
        "accuracy_score_group_min": rates["recall"].min(-1),
        "accuracy_score_difference": gap["recall"],
        "demographic_parity_difference": gap["selection_rate"],
        "equal_opportunity_difference": opportunity,
        "equalized_odds_difference": np.maximum(opportunity, gap["false_positive_rate"]),
    }


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def _gap(rates: Floats) -> Floats:
    """Largest minus smallest of the last axis, NaN left out; NaN where fewer than two are left."""
    found: Floats = np.fmax.reduce(rates, axis=-1) - np.fmin.reduce(rates, axis=-1)
    return np.where(np.isfinite(rates).sum(-1) > 1, found, np.nan)
