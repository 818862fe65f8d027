"""The tables of fairness.py."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from typing import Any

from modeledit.eval.fairness import RELIABLE

MAX_DROP, MAX_GROUP_DROP = 0.005, 0.01  # of accuracy, and what no group may surely lose
OURS = "modeledit (stepwise-cells)"


def named(row: dict[str, Any]) -> str:
    """The method, and how many of the training images were kept for the search."""
    held = row.get("hold_out", 0)
    return f"{row['method']}, {100 * held:g} % held out" if held else str(row["method"])


def reached(row: dict[str, Any]) -> bool:
    """The project's target, on the test images."""
    before, after = row["before"], row["test"]
    fall = after["equalized_odds_difference"] / before["equalized_odds_difference"]
    gain = after["worst_recall"] - before["worst_recall"]
    return bool(
        gain >= 0.05 and fall <= 0.7 and after["accuracy_drop"] <= MAX_DROP and not after["harmed"]
    )


def tables(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown: a row for each method, then every run, then the groups under ours."""
    before = rows[0]["before"]
    yield (
        f"Test images. Unedited: worst group {before['worst_group']}, recall "
        f"{before['worst_recall']:.3f}; equalized-odds difference over race "
        f"{before['equalized_odds_difference']:.3f}; accuracy {before['accuracy']:.4f}. Mean over "
        "seeds, and the worst in brackets. Harmed: groups of at least "
        f"{RELIABLE} whose recall surely (95 %, paired) fell by more than a point. Reached: worst "
        "group +5 points, equalized odds -30 %, accuracy -0.5 points at most, nobody harmed."
    )
    yield ""
    yield (
        "| method | worst group | equalized odds | accuracy drop, points | harmed | reached "
        "| s, scoring | forward-equivalents |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for method in dict.fromkeys(map(named, rows)):
        mine = [row for row in rows if named(row) == method]
        worst, odds, drop = (
            [row["test"][key] for row in mine]
            for key in ("worst_recall", "equalized_odds_difference", "accuracy_drop")
        )
        harmed = sorted({name for row in mine for name in row["test"]["harmed"]})
        yield (
            f"| {method} | {statistics.mean(worst):.3f} ({min(worst):.3f}) "
            f"| {statistics.mean(odds):.3f} ({max(odds):.3f}) "
            f"| {100 * statistics.mean(drop):+.2f} ({100 * max(drop):+.2f}) "
            f"| {', '.join(harmed) or 'none'} | {sum(map(reached, mine))} of {len(mine)} "
            f"| {max(row['scoring']['seconds'] for row in mine):.0f} "
            f"| {round(max(row['scoring']['passes'] for row in mine)):,} |"
        )
    yield ""
    yield "| method | seed | strength | worst group | equalized odds | accuracy | harmed |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        after = row["test"]
        yield (
            f"| {named(row)} | {row['seed']} | {row['strength']:g} | {after['worst_group']} "
            f"{after['worst_recall']:.3f} | {after['equalized_odds_difference']:.3f} "
            f"| {after['accuracy']:.4f} | {', '.join(after['harmed']) or 'none'} |"
        )
    yield ""
    held = max(row.get("hold_out", 0) for row in rows if row["method"] == OURS)
    ours = [row for row in rows if row["method"] == OURS and row.get("hold_out", 0) == held]
    yield (
        f"| group | before | {named(ours[0])}, by seed: after, 95 % interval of the paired drop in "
        "points |"
    )
    yield "|---|---|---|"
    for group, recall in before["recall"].items():
        cells = []
        for row in ours:
            low, high = row["test"]["drop_ci95"][group] or (math.nan, math.nan)
            after = row["test"]["recall"][group]
            cells.append(f"{after:.3f} ({100 * low:+.1f} to {100 * high:+.1f})")
        yield f"| {group} | {recall:.3f} | {'; '.join(cells)} |"
