"""The table of `shapley_topk.py`."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any


def show(rows: list[dict[str, Any]], file: Path) -> None:
    """Means over seeds, as Markdown."""
    lines = []
    for section, heads in (
        ("top", ("evaluations", "seconds", "overlap", "failed", "stopped", "tolerance")),
        ("error", ("error",)),
        ("gate", ("spearman", "error", "passes")),
    ):
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for row in (row for row in rows if row["section"] == section):
            groups.setdefault((row["game"], *row["key"][:2]), []).append(row)
        label = {"top": "tolerance, equal shares", "error": "evaluations", "gate": "steps"}[section]
        lines += [f"| game | method | {label} | seeds | {' | '.join(heads)} |"]
        lines += ["|---" * (4 + len(heads)) + "|"]
        for head, mine in groups.items():
            means = [f"{statistics.mean(float(row[name]) for row in mine):.4g}" for name in heads]
            lines += [f"| {' | '.join(map(str, (*head, len(mine), *means)))} |"]
        lines += [""]
    unsure = {row["game"]: f"{row['reference_error']:.3f}" for row in rows}
    lines += [f"Relative standard error of the reference: {unsure}."]
    file.write_text("\n".join(lines) + "\n")
