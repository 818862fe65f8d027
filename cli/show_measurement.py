"""`evaluate` for people: slices, classes, where the forgotten images go."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from modeledit.report import Landing, Measurement, Report

from .show import clean, percent, short, together

NAME = 32  # columns for a class or layer name


def table(*columns: str, title: str | None = None) -> Table:
    """A plain table: the first column is text, the others are numbers."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    made.title_style = "bold"
    for position, name in enumerate(columns):
        made.add_column(name, justify="right" if position else "left", header_style="dim")
    return made


def evaluation(report: Report) -> list[RenderableType]:
    """Everything `evaluate` prints."""
    parts: list[RenderableType] = [heading(report), "", slices(report.before), ""]
    parts += [classes(report.before)]
    if report.before.landings:
        parts += ["", landings(report.before.landings)]
    from .show_aspects import aspects  # it draws with what is here

    parts += aspects(report.before)
    stage = report.cost.evaluate
    parts += ["", Text(f"{stage.seconds:.1f} s, {stage.passes:,} images", style="dim")]
    return parts + notes(report.notes)


def heading(report: Report) -> Text:
    """What was asked, of what, on what."""
    named = [
        _named(index, report.before.per_class[index].name) for index in sorted(targets(report))
    ]
    target = f" class {', '.join(named)}" if named else ""
    spec, data = clean(report.model.get("spec", "")), clean(report.data.get("spec", ""))
    text = Text(f"{report.task}{target}", style="bold")
    where = f"  {spec} on {data}, test split of {report.before.all.n:,}"
    return text.append(where, style="not bold")


def targets(report: Report) -> set[int]:
    """The forgotten classes by number, from the target's text."""
    kind, _, classes = report.target.partition(":")
    return {int(part) for part in classes.split(",")} if kind == "class" else set()


def _named(index: int, name: str) -> str:
    return str(index) if name == str(index) else f"{index} ({short(name, NAME)})"


def slices(measured: Measurement) -> Table:
    """One line a slice."""
    made = table("slice", "images", "accuracy", "macro-F1", "calibration error")
    for name in ("all", "forget", "retain"):
        found = getattr(measured, name)
        if found is not None:
            made.add_row(
                name,
                f"{found.n:,}",
                percent(found.accuracy),
                percent(found.macro_f1),
                percent(found.ece),
            )
    return made


def classes(measured: Measurement) -> Table:
    """One line a class."""
    made = table("class", "images", "precision", "recall", "F1")
    for each in measured.per_class:
        made.add_row(
            short(each.name, NAME),
            f"{each.support:,}",
            percent(each.precision),
            percent(each.recall),
            percent(each.f1),
        )
    return made


def landings(shares: Sequence[Landing]) -> Text:
    """Where the images of the forgotten class are put."""
    found = ", ".join(
        together(f"{short(each.name, NAME)} {percent(each.share)}") for each in shares
    )
    return Text(f"images of the forgotten class are predicted as: {found}")


def notes(lines: Sequence[str]) -> list[RenderableType]:
    """What a reader must know about the numbers."""
    return [Text(f"note: {clean(line)}") for line in lines]
