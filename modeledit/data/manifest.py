"""`csv:`: a manifest with the columns path,label[,group][,split], in the open or in a zip."""

from __future__ import annotations

import csv
import io
import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from modeledit.data.tables import UNSPLIT, Table, encode, split_code
from modeledit.data.trees import DiskTree, Tree, open_tree
from modeledit.errors import DataError

MANIFEST = "manifest.csv"
OPTIONAL = ("group",)  # the default group column, which a manifest may lack
MISSING = "(missing)"  # the group of rows that have an empty cell there


@dataclass
class _Rows:
    paths: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    splits: list[int] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)


def read_manifest(path: Path, group_column: Sequence[str] = OPTIONAL) -> Table:
    """Images by row; paths are relative to the manifest.

    Several group columns make intersections, their values joined by "-", an empty one as
    "(missing)". Columns not named here are ignored. A row that is short, long, empty or of no known
    split is an error with its line.
    """
    tree, name, where = _locate(path)
    with tree.open(name) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        rows = _read(where, text, group_column)
    if not rows.paths:
        raise DataError(f"{where} has no rows: give one line per image under the header")
    codes, texts = encode(rows.labels)
    return Table(
        tree.images(rows.paths),
        codes,
        texts,
        np.array(rows.splits, dtype=np.int8),
        np.array(rows.groups) if rows.groups else None,
    )


def other_columns(path: Path) -> tuple[str, ...]:
    """The columns of a manifest that could name groups: all but path, label and split."""
    tree, name, _ = _locate(path)
    with tree.open(name) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        header = next(csv.reader(text), [])
    return tuple(column for column in header if column not in ("path", "label", "split"))


def _locate(path: Path) -> tuple[Tree, str, str]:
    """The tree, the manifest in it, and what to call that."""
    if path.is_dir() or path.suffix.lower() == ".zip":
        tree = open_tree(path)
        if not tree.holds(MANIFEST):
            raise DataError(f"{path} has no {MANIFEST} at its root: add one, or use folder:")
        return tree, MANIFEST, f"{path}/{MANIFEST}"
    if not path.is_file():
        raise DataError(f"there is no {path}: give a manifest with the columns path,label")
    return DiskTree(path.parent), path.name, str(path)


def _read(where: str, text: io.TextIOBase, group_column: Sequence[str]) -> _Rows:
    rows = _Rows()
    try:
        reader = csv.reader(text, strict=True)
        columns = next(reader, [])
        grouped = _check_columns(where, columns, group_column)
        for line, row in _records(where, reader, columns):
            rows.paths.append(posixpath.normpath(row["path"]))
            rows.labels.append(row["label"])
            rows.splits.append(_split(where, line, row["split"]) if "split" in row else UNSPLIT)
            if grouped:
                rows.groups.append("-".join(row[column] or MISSING for column in group_column))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{where} is not a CSV file in UTF-8: {error}") from error
    return rows


def _records(
    where: str, reader: Iterator[list[str]], columns: Sequence[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows by column name with the line they end on; blank lines are passed over."""
    for cells in reader:
        line: int = reader.line_num  # type: ignore[attr-defined]
        if not cells:
            continue
        if len(cells) != len(columns):
            raise DataError(
                f"{where} line {line} has {len(cells)} cells, the header {len(columns)}: mend it"
            )
        row = {column: cell.strip() for column, cell in zip(columns, cells, strict=True)}
        for column in ("path", "label"):
            if not row[column]:
                raise DataError(
                    f"{where} line {line} has no {column}: fill it in or remove the row"
                )
        yield line, row


def _check_columns(where: str, columns: Sequence[str], group_column: Sequence[str]) -> bool:
    """Whether the rows have groups. A column asked for and not there is an error."""
    here = f"{where} has the columns {', '.join(columns) or '(none)'}"
    missing = [column for column in ("path", "label") if column not in columns]
    if missing:
        raise DataError(f"{here}, but no {missing[0]}: path and label are needed")
    if len(set(columns)) != len(columns):
        raise DataError(f"{here}, one of them twice: rename it")
    absent = [column for column in group_column if column not in columns]
    if absent and tuple(group_column) != OPTIONAL:
        raise DataError(f"{here}, but no {absent[0]}: use --group-column with one of these")
    return not absent and len(group_column) > 0


def _split(where: str, line: int, name: str) -> int:
    code = split_code(name)
    if code is None:
        raise DataError(f"{where} line {line}: split {name!r} is not train, validation or test")
    return code
