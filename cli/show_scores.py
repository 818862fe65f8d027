"""Scores for people: how they were made, and their distribution by tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .show import clean, short

if TYPE_CHECKING:
    from torch import Tensor

    from modeledit.types import Scores

LAYERS = 5  # lines that are always shown


def summary(scores: Scores, *, all_layers: bool) -> list[Any]:
    """What was sampled, then the tensors with the largest scores; those of zeros are counted."""
    rows = sorted(scores.values.items(), key=lambda item: -float(item[1].max()))
    some = [(name, values) for name, values in rows if all_layers or bool((values != 0).any())]
    most = len(rows) if all_layers else LAYERS
    parts: list[Any] = [clean(scores), *_sampled(scores), _table(scores, some[:most])]
    left = [f"{len(some) - most} more"] if len(some) > most else []
    left += [f"{len(rows) - len(some)} of zeros"] if len(some) < len(rows) else []
    if left:
        parts.append(f"and {', '.join(left)} (all with --verbose)")
    return parts


def made_with(scores: Scores) -> list[tuple[str, str]]:
    """(entry, value) of the header as text, without options that nobody chose."""
    header = dict(scores.header)
    options = {k: v for k, v in header.pop("options", {}).items() if v not in (None, "")}
    shown = [(key, _text(value)) for key, value in sorted(header.items())]
    return [*shown, *((f"option {key}", _text(value)) for key, value in sorted(options.items()))]


def _sampled(scores: Scores) -> list[str]:
    """How many evaluations there were and of what, where a scorer evaluates sub-networks."""
    header = scores.header
    if "evaluations" not in header:
        return []
    images = sum(header.get("images", {}).values())
    played = header.get("units_played", scores.count)
    line = f"{header['evaluations']:,} evaluations of {header.get('metric')} on {images:,} images"
    known = f", {header['resolved']:,} resolved" if header.get("resolved") else ""
    ran = f" (engine {header['engine']})" if "engine" in header else ""
    return [f"{line}, {played:,} units played{known}{ran}"]


def _table(scores: Scores, rows: list[tuple[str, Tensor]]) -> Any:
    """With the interval of each tensor's largest score where the scores are what was sampled."""
    from .show_measurement import table

    plain = bool(scores.half_width) and all(
        bool((values.abs() == scores.raw.get(name, values).abs()).all()) for name, values in rows
    )
    made = table("tensor", "entries", "largest", *(["half width"] if plain else []), "mean")
    for name, values in rows:
        at = int(values.argmax())
        cells = [f"{float(values.flatten()[at]):.4g}"]
        cells += [_width(scores.half_width, name, at)] if plain else []
        made.add_row(short(name, 40), f"{values.numel():,}", *cells, f"{float(values.mean()):.4g}")
    return made


def _width(widths: Mapping[str, Tensor], name: str, at: int) -> str:
    """Of the interval around one score; nothing is known of those that were not sampled."""
    import torch

    width = float(widths[name].flatten()[at])
    return "unknown" if width >= torch.finfo(torch.float32).max else f"{width:.2g}"


def _text(value: Any) -> str:
    return short(value if isinstance(value, str) else json.dumps(value, sort_keys=True), 600)
