"""Accuracy, precision, recall, F1 and calibration, by class and by slice (scikit-learn's)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from modeledit.eval.predictions import Predictions
from modeledit.report import ClassMetrics, Landing, Measurement, SliceMetrics
from modeledit.targets import ForgetClass, Target

BINS = 15


def summarise(answers: Predictions, target: Target | None, names: Sequence[str]) -> Measurement:
    """Everything the report says of one model on one split."""
    everything = slice_metrics(answers, len(names))
    classes = per_class(answers, names)
    if not isinstance(target, ForgetClass):
        return Measurement(all=everything, per_class=classes)
    shown = target.mask(answers.labels)
    forget, retain = answers.where(shown), answers.where(~shown)
    return Measurement(
        all=everything,
        per_class=classes,
        forget=slice_metrics(forget, len(names)) if len(forget) else None,
        retain=slice_metrics(retain, len(names)) if len(retain) else None,
        forgotten_recall=worst_recall(answers, target) if len(forget) else None,
        landings=landings(forget, names),
    )


def slice_metrics(answers: Predictions, classes: int) -> SliceMetrics:
    """Metrics of a non-empty slice; macro-F1 is the mean over the classes that occur in it."""
    present = np.unique(answers.labels)
    f1 = precision_recall_fscore_support(
        answers.labels, answers.predicted, labels=np.arange(classes), zero_division=0
    )[2]
    return SliceMetrics(
        n=len(answers),
        accuracy=float(answers.correct.mean()),
        macro_f1=float(f1[present].mean()),
        ece=calibration_error(answers),
    )


def per_class(answers: Predictions, names: Sequence[str]) -> tuple[ClassMetrics, ...]:
    """One entry a class, in the model's order."""
    columns = precision_recall_fscore_support(
        answers.labels, answers.predicted, labels=np.arange(len(names)), zero_division=0
    )
    rows = zip(names, *columns, strict=True)
    return tuple(ClassMetrics(n, float(p), float(r), float(f), int(s)) for n, p, r, f, s in rows)


def worst_recall(answers: Predictions, target: ForgetClass) -> float:
    """The recall of the forgotten class that is recalled most, among those with examples."""
    recalls = [
        float(answers.correct[answers.labels == c].mean())
        for c in target.classes
        if (answers.labels == c).any()
    ]
    return max(recalls)


def calibration_error(answers: Predictions) -> float:
    """Expected calibration error over 15 equal bins of confidence. Guo et al. 2017, eq. 3."""
    bins = np.minimum((answers.confidence * BINS).astype(int), BINS - 1)
    gap = np.bincount(bins, answers.correct - answers.confidence.astype(float), BINS)
    return float(np.abs(gap).sum() / len(answers))


def landings(forget: Predictions, names: Sequence[str]) -> tuple[Landing, ...]:
    """Where the forgotten images go, the largest share first; at most five classes."""
    shares = np.bincount(forget.predicted, minlength=len(names)) / max(len(forget), 1)
    order = np.argsort(-shares, kind="stable")[:5]
    return tuple(Landing(names[i], float(shares[i])) for i in order if shares[i] > 0)
