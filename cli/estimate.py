"""`--dry-run`: what would be edited, how long it would take and how much memory."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from .errors import PASSED
from .options_run import Printing
from .show import draw, emit_json, short

if TYPE_CHECKING:
    from rich.console import RenderableType

    from modeledit.estimate import Estimate
    from modeledit.types import EditPlan

LAYERS = 5  # lines that are always shown


def show_estimate(estimate: Estimate, printing: Printing, *, verbose: bool) -> int:
    """Print what a run would take."""
    if printing.as_json:
        emit_json(asdict(estimate))
    else:
        draw(*_lines(estimate, verbose))
    return PASSED


def show_plan(plan: EditPlan, printing: Printing, *, verbose: bool) -> int:
    """Print the plan that a fixed strength means, which needs no run."""
    rows = plan.by_layer()
    if printing.as_json:
        emit_json({"changed": plan.changed_weights, "by_layer": [asdict(row) for row in rows]})
        return PASSED
    from .show_measurement import table

    made = table("layer", "would change", "of")
    for row in rows if verbose else rows[:LAYERS]:
        made.add_row(short(row.layer, 44), f"{row.changed:,}", f"{row.total:,}")
    more = [] if verbose or len(rows) <= LAYERS else [f"and {len(rows) - LAYERS} more (--verbose)"]
    total = f"{plan.changed_weights:,} weights in {len(rows)} tensors"
    draw("dry run: nothing was changed or written", "", made, *more, total)
    return PASSED


def _lines(estimate: Estimate, verbose: bool) -> list[RenderableType]:
    from .show_measurement import table

    made = table("layer", "entries", "editable")
    rows = estimate.by_layer if verbose else estimate.by_layer[:LAYERS]
    for layer, count, editable in rows:
        made.add_row(short(layer, 44), f"{count:,}", "yes" if editable else "no")
    parts: list[RenderableType] = ["dry run: nothing was changed or written", "", made]
    if len(estimate.by_layer) > len(rows):
        parts.append(f"and {len(estimate.by_layer) - len(rows)} more (all with --verbose)")
    examples = ", ".join(f"{name} {count:,}" for name, count in estimate.examples.items())
    passes = ", ".join(f"{stage} {count:,}" for stage, count in estimate.passes.items())
    return [
        *parts,
        "",
        f"editable  {estimate.weights:,} weights, {estimate.units:,} units",
        f"images    {examples}",
        f"passes    {passes}",
        "          (images through the network; a backward pass counts as two)",
        f"at most   about {estimate.seconds:.0f} s and {estimate.memory_mb:,.0f} MB",
    ]
