"""`unlearn` and `edit` for people: before and after, the plan, the search, the gates, the cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from modeledit.report import (
    AttackTrial,
    Candidate,
    ClassMetrics,
    ForgetTrial,
    GateResult,
    GroupTrial,
    Measurement,
    Report,
    StageCost,
    Trial,
)

from .show import clean, counted, percent, points, short, together
from .show_aspects import compared
from .show_measurement import NAME, heading, landings, notes, table, targets

GROUP = 16  # columns for a group's name
LAYERS = 5  # lines of the plan that are always shown


def outcome(report: Report, *, verbose: bool) -> list[RenderableType]:
    """Everything but what was written."""
    parts: list[RenderableType] = [heading(report), ""]
    if report.after is None or report.edit is None:
        return parts
    forgotten = targets(report)
    parts += [comparison(report.before, report.after, forgotten)]
    parts += compared(report)
    parts += [""] if report.changes or report.after.attack else []
    parts += [harmed(report.before, report.after, forgotten)]
    if report.after.landings:
        parts += [landings(report.after.landings)]
    parts += ["", *plan(report, LAYERS if not verbose else len(report.edit.by_layer))]
    if report.candidates:
        parts += ["", candidates(report.candidates)]
    if verbose and report.search:
        parts += ["", frontier(report.search)]
    parts += ["", *map(gate, report.gates)]
    verdict = Text(f"verdict: {report.verdict}", style="bold")
    parts += [verdict.append(f" ({clean(report.explanation)})", style="not bold"), ""]
    spent = "; ".join(map(together, cost(report)))
    parts += [Text(f"{spent}\n(passes: forward-equivalent images)", style="dim")]
    return [*parts, *notes(report.notes)]


def comparison(before: Measurement, after: Measurement, forgotten: set[int]) -> Table:
    """The numbers that decide, with their change in points."""
    made = table("test split", "before", "after", "change")
    rows: list[tuple[str, float | None, float | None]] = []
    for index in sorted(forgotten):
        old, new = before.per_class[index], after.per_class[index]
        name = short(old.name, NAME)
        rows += [(f"forget {name}, recall", old.recall, new.recall)]
        rows += [(f"forget {name}, F1", old.f1, new.f1)]
    if before.retain is not None and after.retain is not None:
        old_kept, new_kept = before.retain, after.retain
        rows += [("retain, accuracy", old_kept.accuracy, new_kept.accuracy)]
        rows += [("retain, macro-F1", old_kept.macro_f1, new_kept.macro_f1)]
        rows += [("retain, calibration error", old_kept.ece, new_kept.ece)]
    else:
        rows += [("accuracy", before.all.accuracy, after.all.accuracy)]
        rows += [("macro-F1", before.all.macro_f1, after.all.macro_f1)]
        rows += [("calibration error", before.all.ece, after.all.ece)]
    for label, was, now in rows:
        change = None if was is None or now is None else now - was
        made.add_row(label, percent(was), percent(now), points(change))
    return made


def harmed(before: Measurement, after: Measurement, forgotten: set[int]) -> Text:
    """The class that lost most recall, of those that are to be kept."""
    pairs = [
        (old, new)
        for index, (old, new) in enumerate(zip(before.per_class, after.per_class, strict=True))
        if index not in forgotten and old.support
    ]
    old, new = min(pairs, key=_gain)
    kept = "retained class" if forgotten else "class"
    if _gain((old, new)) >= 0:
        return Text(f"no {kept} lost recall")
    change = f"{percent(old.recall)} to {percent(new.recall)}"
    return Text(f"most harmed {kept}: {short(old.name, NAME)}, recall {change}")


def _gain(pair: tuple[ClassMetrics, ClassMetrics]) -> float:
    return pair[1].recall - pair[0].recall


def plan(report: Report, most: int) -> list[RenderableType]:
    """What was changed, the layers with the most changes first."""
    edit = report.edit
    if edit is None:
        return []
    units = f" in {counted(edit.changed_units, 'unit')}" if edit.changed_units else ""
    share = together(f"{100 * edit.changed_fraction:.3g} %")
    head = (
        f"changed {edit.changed_weights:,} weights{units} ({share} of the model) by {edit.scorer} "
        f"and {edit.editor}, {together(f'strength {edit.strength:g}')}"
    )
    made = table("layer", "changed", "of", "share")
    rows: Sequence[Mapping[str, Any]] = sorted(edit.by_layer, key=lambda row: -row["changed"])
    for row in rows[:most]:
        share = f"{100 * row['changed'] / row['total']:.3g} %"
        made.add_row(short(row["layer"], 44), f"{row['changed']:,}", f"{row['total']:,}", share)
    parts: list[RenderableType] = [Text(head), *([made] if rows else [])]
    if len(rows) > most:
        parts.append(Text(f"and {len(rows) - most} more (all with --verbose)", style="dim"))
    if edit.left_out_units:
        left = counted(edit.left_out_units, "unit")
        parts.append(Text(f"{left} could not be pinned and were left out"))
    return parts


def frontier(trials: Sequence[Trial]) -> Table:
    """Every strength that was tried, on the validation split."""
    made = table("strength tried", "changed", *_columns(trials[0]), "")
    most = max(trial.images for trial in trials)
    for trial in trials:
        mark = "<- chosen" if trial.chosen else "" if trial.feasible else "over budget"
        if trial.images < most and not trial.chosen:
            mark = f"{'behind' if trial.feasible else 'lost'} after {trial.images:,}"  # images
        cells = _cells(trial)
        made.add_row(f"{trial.strength:g}", f"{trial.changed_weights:,}", *cells, mark)
    return made


def candidates(tried: Sequence[Candidate]) -> Table:
    """What each scorer came to on the validation split, and what that took."""
    made = table("tried on validation", "changed", *_columns(tried[0].best), "s", "")
    for each in tried:
        name, seconds = short(each.name, NAME), each.score.seconds + each.search.seconds
        mark = "<- chosen" if each.chosen else "" if each.best.feasible else "over budget"
        cells = (f"{each.best.changed_weights:,}", *_cells(each.best), f"{seconds:.0f}")
        made.add_row(name, *cells, mark)
    return made


def _columns(trial: Trial) -> tuple[str, ...]:
    if isinstance(trial, ForgetTrial):
        return "forget recall", "retain drop"
    if isinstance(trial, GroupTrial):
        return "metric", "accuracy drop", "most harmed"
    return "success", "restored", "accuracy drop"


def _cells(trial: Trial) -> tuple[str, ...]:
    if isinstance(trial, ForgetTrial):
        return percent(trial.forget), _drop(trial.retain_drop, trial.retain_drop_se)
    if isinstance(trial, GroupTrial):
        harmed = f"{short(trial.most_harmed, GROUP)} {points(-trial.group_drop)}"
        drop = _drop(trial.accuracy_drop, trial.accuracy_drop_se)
        return percent(trial.value), drop, harmed
    if isinstance(trial, AttackTrial):
        drop = _drop(trial.accuracy_drop, trial.accuracy_drop_se)
        return percent(trial.success), percent(trial.restored), drop
    raise TypeError(f"a trial of no known kind: {trial}")


def _drop(drop: float, error: float) -> str:
    return f"{100 * drop:+.2f} ± {100 * error:.2f}"


def gate(result: GateResult) -> Text:
    """One gate in words; the colour only repeats them."""
    within, beyond = ("<", ">=") if result.strict else ("<=", ">")
    word, sign, colour = ("pass", within, "green") if result.passed else ("FAIL", beyond, "red")
    unit = "points" if "drop" in result.name else "%"
    text = Text(word, style=f"bold {colour}")
    numbers = f"{100 * result.value:.2f} {sign} {100 * result.limit:.2f} {unit}"
    return text.append(f"  {clean(result.name)} {numbers}", style="not bold default")


def cost(report: Report) -> list[str]:
    """Seconds and forward-equivalent images of each stage that ran, and the memory."""
    stages = ("score", "search", "edit", "evaluate")
    parts = [_stage(name, getattr(report.cost, name)) for name in stages]
    memory = f"peak memory {report.cost.peak_memory_mb:,.0f} MB"
    return [*filter(None, parts), memory]


def _stage(name: str, spent: StageCost) -> str:
    if not spent.seconds:
        return f"{name} {spent.passes:,} passes, made before" if spent.passes else ""
    passes = f", {spent.passes:,} passes" if spent.passes else ""
    return f"{name} {spent.seconds:.1f} s{passes}"
