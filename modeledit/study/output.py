"""What a study leaves behind: tables as CSV, everything as study.json, pictures as PNG and SVG."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeledit.checkpoint import Staging
from modeledit.checkpoint.atomic import write_file
from modeledit.errors import ModelEditError
from modeledit.study.drawing import files

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SUMMARY = "study.json"
KIND = ("a study", (SUMMARY,))
Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows of equal length under named columns; None is an empty cell."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ModelEditError(f"a row of {len(row)} cells under {len(self.columns)} columns")

    def column(self, name: str) -> list[Cell]:
        """One column from top to bottom."""
        place = self.columns.index(name)
        return [row[place] for row in self.rows]

    def records(self) -> list[dict[str, Cell]]:
        """The rows as JSON objects; what is not finite becomes null."""
        return [
            {name: _finite(cell) for name, cell in zip(self.columns, row, strict=True)}
            for row in self.rows
        ]

    def csv(self) -> str:
        """Comma-separated, numbers with nine digits, a header first."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows([_text(cell) for cell in row] for row in self.rows)
        return buffer.getvalue()


def _finite(cell: Cell) -> Cell:
    return None if isinstance(cell, float) and not math.isfinite(cell) else cell


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    return f"{cell:.9g}" if isinstance(cell, float) else str(cell)


def check(out: Path, *, force: bool, inputs: Sequence[Path] = ()) -> None:
    """Refuse a folder that could not be written later; call it before hours of work."""
    Staging.check(out, force=force, inputs=inputs, kind=KIND)


def save(
    out: Path,
    header: Mapping[str, Any],
    tables: Mapping[str, Table],
    figures: Mapping[str, Figure],
    *,
    force: bool = False,
    inputs: Sequence[Path] = (),
) -> list[Path]:
    """Write the folder whole or not at all; returns its files, study.json first.

    An existing folder is refused, or with `force` replaced if it is an earlier study or empty.
    """
    summary = {
        **header,
        "tables": {name: table.records() for name, table in tables.items()},
    }
    contents: dict[str, bytes] = {
        SUMMARY: (json.dumps(summary, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
    }
    contents.update({f"{name}.csv": table.csv().encode() for name, table in tables.items()})
    for name, figure in figures.items():
        contents.update(files(name, figure))
    with Staging(out, force=force, inputs=inputs, kind=KIND) as stage:
        for name, data in contents.items():
            write_file(stage.path / name, [data])
        place = stage.commit()
    return [place / name for name in contents]
