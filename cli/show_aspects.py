"""Groups of people and attacks, for people: tables of at most 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from modeledit.eval.fairness import GroupMetrics
from modeledit.report import AttackMetrics, Changes, Measurement, Report

from .show import percent, points, short
from .show_measurement import table

METRICS = {
    "accuracy_score": "accuracy",
    "accuracy_score_group_mean": "mean group recall",
    "accuracy_score_group_min": "worst group recall",
    "accuracy_score_difference": "recall, largest difference",
    "demographic_parity_difference": "demographic parity difference",
    "equal_opportunity_difference": "equal opportunity difference",
    "equalized_odds_difference": "equalized odds difference",
}
NAME = 26  # columns for the name of a group
Interval = Sequence[float]


def aspects(measured: Measurement) -> list[RenderableType]:
    """The blocks that were measured, a blank line before each."""
    parts: list[RenderableType] = []
    if measured.groups:
        parts += ["", groups(measured.groups)]
    if measured.fairness is not None:
        parts += ["", fairness(measured.fairness, _positive(measured))]
    if measured.attack is not None:
        parts += ["", attack(measured.attack)]
    return parts


def groups(rows: Sequence[GroupMetrics]) -> Table:
    """One line a group; what has no denominator is a dash."""
    made = table("group", "images", "recall", "95 %", "selected", "TPR", "FPR")
    for each in rows:
        made.add_row(
            short(each.name, NAME),
            f"{each.n:,}",
            percent(each.recall),
            between(each.ci95),
            percent(each.selection_rate),
            percent(each.true_positive_rate),
            percent(each.false_positive_rate),
        )
    return made


def _positive(measured: Measurement) -> str:
    """The class whose rates are compared."""
    index = (measured.fairness or {}).get("positive")
    return str(index) if index is None else short(measured.per_class[index].name, NAME)


def fairness(found: Mapping[str, Any], positive: str) -> Table:
    """One line a metric; rates are those of the class `positive`."""
    made = table("over groups", "value", "95 %")
    for key, name in METRICS.items():
        interval = found.get("ci95", {}).get(key) if key in found else None
        made.add_row(name, percent(found.get(key)), between(interval))
    made.add_row("worst group", short(found["worst_group"], NAME), "")
    made.add_row("rates are of class", positive, "")
    return made


def attack(found: AttackMetrics) -> Table:
    """Clean and robust accuracy and success, with their intervals."""
    rows: list[tuple[str, float | None, str]] = [
        ("clean accuracy", found.clean_accuracy, "clean_accuracy"),
        ("robust accuracy", found.robust_accuracy, "robust_accuracy"),
        ("success rate, on this model", found.success_rate, "success_rate"),
    ]
    if found.transfer_from is not None:
        name = f"success rate, from {short(found.transfer_from, NAME)}"
        rows.append((name, found.transfer_success_rate, "transfer_success_rate"))
    made = table(attack_name(found), "value", "95 %", "images")
    for name, value, key in rows:
        images = f"{_images(found, key):,}"
        made.add_row(name, percent(value), between(found.ci95.get(key)), images)
    return made


def attack_name(found: AttackMetrics) -> str:
    """The attack in a few words: its size in 255ths of the pixel range, and where it aims."""
    options = found.options
    size = f"{255 * options['eps']:.4g}/255" if options["norm"] == "linf" else f"{options['eps']:g}"
    aim = "targeted" if options["targeted"] else "untargeted"
    return f"{found.name}, {options['norm']} {size}, {aim}"


def between(interval: Interval | None) -> str:
    """An interval of shares, in percent."""
    return "-" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def compared(report: Report) -> list[RenderableType]:
    """Groups and attacks before and after, a blank line before each table."""
    before, after = report.before, report.after
    parts: list[RenderableType] = []
    if after is None:
        return parts
    if report.changes is not None:
        parts += ["", _groups_compared(before.groups, after.groups, report.changes)]
        if (before.fairness or {}).get("equalized_odds_difference") is not None:
            parts += ["", _rates_compared(before.groups, after.groups)]
        parts += [
            "",
            _metrics_compared(before.fairness or {}, after.fairness or {}, report.changes),
        ]
    if before.attack is not None and after.attack is not None:
        parts += ["", _attack_compared(before.attack, after.attack)]
    return parts


def _groups_compared(
    before: Sequence[GroupMetrics], after: Sequence[GroupMetrics], changes: Changes
) -> Table:
    made = table("group, recall", "images", "before", "after", "change", "95 %")
    for old, new, drop in zip(before, after, changes.groups, strict=True):
        made.add_row(
            short(old.name, NAME),
            f"{old.n:,}",
            percent(old.recall),
            percent(new.recall),
            points(-drop.drop),
            "-" if drop.ci95 is None else signed((-drop.ci95[1], -drop.ci95[0])),
        )
    return made


def _rates_compared(before: Sequence[GroupMetrics], after: Sequence[GroupMetrics]) -> Table:
    """What equalized odds compares, where every group has both rates."""
    made = table("group", "TPR before", "after", "change", "FPR before", "after", "change")
    for old, new in zip(before, after, strict=True):
        cells = [short(old.name, NAME)]
        for rate in ("true_positive_rate", "false_positive_rate"):
            was, now = getattr(old, rate), getattr(new, rate)
            change = None if was is None or now is None else now - was
            cells += [percent(was), percent(now), points(change)]
        made.add_row(*cells)
    return made


def _metrics_compared(
    before: Mapping[str, Any], after: Mapping[str, Any], changes: Changes
) -> Table:
    made = table("over groups", "before", "after", "change", "95 %")
    for key, name in METRICS.items():
        change = changes.metrics.get(key)
        made.add_row(
            name,
            percent(before.get(key)),
            percent(after.get(key)),
            points(None if change is None else change.change),
            "-" if change is None or change.ci95 is None else signed(change.ci95),
        )
    return made


def _attack_compared(before: AttackMetrics, after: AttackMetrics) -> Table:
    rows = [
        ("clean accuracy", "clean_accuracy"),
        ("success of replayed images", "replay_success_rate"),
        ("success of images made anew", "success_rate"),
        ("replayed, true class restored", "replay_restored_rate"),
        ("robust accuracy", "robust_accuracy"),
    ]
    if before.transfer_from is not None:
        rows.insert(
            3, (f"success, from {short(before.transfer_from, 15)}", "transfer_success_rate")
        )
    made = table(attack_name(before), "before", "after", "change", "95 % after", "images")
    for name, key in rows:
        old, new = getattr(before, key), getattr(after, key)
        change = None if old is None or new is None else new - old
        interval = between(after.ci95.get(key))
        images = f"{_images(after, key):,}"
        made.add_row(name, percent(old), percent(new), points(change), interval, images)
    return made


def _images(found: AttackMetrics, rate: str) -> int:
    """How many a rate is a share of: successes are of those classified correctly when clean."""
    if rate == "success_rate":
        return found.attacked
    return found.n if rate.endswith("accuracy") else found.replay_attacked


def signed(interval: Interval) -> str:
    """An interval of changes, in points."""
    return f"{points(interval[0])} to {points(interval[1])}"
