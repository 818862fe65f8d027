"""A report with everything in it, and names that are hard to print."""

from __future__ import annotations

from modeledit.report import (
    ClassMetrics,
    Cost,
    Edit,
    ForgetTrial,
    GateResult,
    Landing,
    Measurement,
    Report,
    SliceMetrics,
    StageCost,
)

LONG = (
    "a class name that is far too long for any table and [bold]marked up[/bold] \x1b[31m" + "x" * 90
)
LAYER = "stages.0.blocks.1." * 8 + "conv.weight"


def measured(recall: float, other: float) -> Measurement:
    """Three classes of 100 images; the last one is retained with recall `other`."""
    shared = SliceMetrics(100, recall, recall, 0.02)
    rows = [(LONG, recall), ("b", 0.9), ("c", other)]
    return Measurement(
        all=SliceMetrics(300, 0.9, 0.9, 0.01),
        per_class=tuple(ClassMetrics(name, 0.9, value, 0.85, 100) for name, value in rows),
        forget=shared,
        retain=SliceMetrics(200, 0.9, 0.88, 0.03),
        forgotten_recall=recall,
        landings=(Landing(LONG, 0.75), Landing("b", 0.25)),
    )


def sample(*, passed: bool) -> Report:
    rows = tuple({"layer": f"{i}.{LAYER}", "changed": i, "total": 1000} for i in range(1, 9))
    value = 0.004 if passed else 0.25
    spent = StageCost(1.5, 1234)
    trial = ForgetTrial(
        strength=0.003,
        changed_weights=36,
        forget=0.0,
        images=100,
        forget_se=0.0,
        forget_tail=0.0,
        retain=0.9,
        retain_drop=0.002,
        retain_drop_se=0.001,
        feasible=True,
        chosen=True,
    )
    return Report(
        task="unlearn",
        target="class:0",
        model={"spec": "timm:test", "digest": "d"},
        data={"spec": "demo", "digest": "e", "splits": {"test": 300}},
        seed=0,
        versions={"modeledit": "0"},
        before=measured(0.95, 0.90),
        after=measured(0.004, 0.88),
        edit=Edit("peps", {}, "zero", {}, "weight", 0.003, 36, 0, 0.0045, rows, "f"),
        search=(trial,),
        gates=(GateResult("forgotten recall", 0.01, value, passed),),
        verdict="suppressed, unverified" if passed else "no effect",
        explanation="whether it is still represented inside was not tested",
        notes=("validation was cut from train",),
        cost=Cost(spent, spent, StageCost(0.0, 0), spent, 512.0),
    )
