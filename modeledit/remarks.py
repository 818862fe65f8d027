"""What a report says of how a plan came about, beyond its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modeledit.types import EditPlan

SHOWN = 5  # layers named in a line


def remarks(plan: EditPlan) -> tuple[str, ...]:
    """A line on the limit to layers and one on training, where there was such a thing."""
    limit = plan.header.get("scores", {}).get("limited_to")
    training = plan.header.get("training")
    return (*([_limit(limit)] if limit else []), *([_training(training)] if training else []))


def _limit(found: Mapping[str, Any]) -> str:
    names = found["layers"]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    cost = f", {found['passes']:,} forward-equivalents" if found["passes"] else ""
    return (
        f"edited were only {', '.join(names[:SHOWN])}{more}, each with what lies beneath "
        f"({found['rule']}{cost})"
    )


def _training(found: Mapping[str, Any]) -> str:
    return (
        f"{len(found['parameters'])} parameters ({found['weights']:,} weights) were trained for "
        f"{found['steps']:,} steps of {found['batch']} images, drawn from {found['images']:,} "
        "retained training images; the cost of this, at every strength tried, is counted as edit"
    )
