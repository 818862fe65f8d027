"""How to score, how to edit, and what an edit must keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from modeledit.defaults import AUTO, EDITOR, SCORER

from .command import option
from .options import FILE, Decorator, Pairs, bundle, choice
from .params import KeyValue, LayerNames, Plugin, Share, Spending, Strength


@dataclass(frozen=True)
class Scoring:
    """Which scorer; `granularity` None leaves it to the scorer. budget: evaluations or seconds."""

    scorer: str
    scorer_arg: Pairs
    granularity: str | None
    budget: tuple[int | None, float | None] | None
    resume: bool
    ray: str | None

    def options(self) -> dict[str, Any]:
        """The scorer's options by name."""
        given = {} if self.granularity is None else {"granularity": self.granularity}
        return {**dict(self.scorer_arg), **given}


@dataclass(frozen=True)
class Editing:
    """Which editor and how much."""

    editor: str
    editor_arg: Pairs
    strength: Any  # "auto", a fraction (float) or a count (int)
    order: str
    allocation: str

    def options(self) -> dict[str, Any]:
        """The editor's options by name."""
        return {**dict(self.editor_arg), "order": self.order, "allocation": self.allocation}


@dataclass(frozen=True)
class Gates:
    """Limits an edit for class targets must keep, in 0..1."""

    max_forget: float
    max_retain_drop: float


classes_option = option(
    "--class",
    "classes",
    multiple=True,
    metavar="CLASS",
    group="Editing",
    help="Forget it, by number or name; repeat for several.",
)


layers_option = option(
    "--layers",
    type=LayerNames(),
    metavar="auto|NAME,...",
    group="Scoring",
    help="Only these layers; auto: those that support the target.",
)


scores_option = option(
    "--scores",
    type=FILE,
    metavar="FILE",
    group="Scoring",
    help="Use these, which `modeledit score` wrote, and score nothing.",
)


def scoring_with(name: str) -> Decorator:
    """The options of scoring; `name` is the scorer without --scorer, "auto" for several."""
    several = [AUTO] if name == AUTO else []
    help_text = "See `modeledit list scorers`."
    return bundle(
        "scoring",
        Scoring,
        [
            option(
                "--scorer",
                type=Plugin("scorers", *several),
                metavar="NAME",
                default=name,
                show_default=True,
                group="Scoring",
                help=f"auto: the best of two. {help_text}" if several else help_text,
            ),
            option(
                "--scorer-arg",
                type=KeyValue(),
                multiple=True,
                group="Scoring",
                help="An option of the scorer; repeatable.",
            ),
            option(
                "--granularity",
                type=click.Choice(["weight", "filter"]),
                metavar="WHAT",
                group="Scoring",
                help="weight or filter; by default what the scorer prefers.",
            ),
            option(
                "--budget",
                type=Spending(),
                metavar="N|TIME",
                group="Scoring",
                help="For sampling: 5000 evaluations, or a time (90s, 10m, 2h).",
            ),
            option(
                "--resume",
                is_flag=True,
                group="Scoring",
                help="Continue sampling that was interrupted.",
            ),
            option(
                "--ray",
                metavar="ADDRESS",
                group="Scoring",
                help="Sample on a Ray cluster: HOST:PORT, or auto.",
            ),
        ],
    )


scoring_options = scoring_with(SCORER["unlearn"])


def editing_with(name: str) -> Decorator:
    """The options of editing; `name` is the editor without --editor."""
    return bundle(
        "editing",
        Editing,
        [
            option(
                "--editor",
                type=Plugin("editors"),
                metavar="NAME",
                default=name,
                show_default=True,
                group="Editing",
                help="See `modeledit list editors`.",
            ),
            option(
                "--editor-arg",
                type=KeyValue(),
                multiple=True,
                group="Editing",
                help="An option of the editor; repeat for several.",
            ),
            option(
                "--strength",
                type=Strength(),
                metavar="HOW",
                default="auto",
                show_default=True,
                group="Editing",
                help="auto, a fraction (0.003) or a count (30).",
            ),
            choice(
                "--order",
                ["highest", "lowest"],
                "Scores edited first: highest or lowest.",
                group="Editing",
                metavar="WHICH",
            ),
            choice(
                "--allocation",
                ["auto", "per-tensor", "global"],
                "Spread of the strength: auto, per-tensor or global.",
                group="Editing",
                metavar="HOW",
            ),
        ],
    )


editing_options = editing_with(EDITOR["unlearn"])


gate_options = bundle(
    "gates",
    Gates,
    [
        option(
            "--max-forget",
            type=Share(),
            default=0.01,
            show_default=True,
            group="Gates",
            help="Largest recall left of a forgotten class.",
        ),
        option(
            "--max-retain-drop",
            type=Share(),
            default=0.01,
            show_default=True,
            group="Gates",
            help="Largest loss of accuracy on all other classes.",
        ),
    ],
)


def limit_option(flag: str, default: float | None, help_text: str) -> Decorator:
    """A gate: a share, or None where it is off."""
    return option(
        flag,
        type=Share(),
        default=default,
        show_default=default is not None,
        group="Gates",
        help=help_text,
    )


max_drop_option = limit_option("--max-drop", 0.005, "Largest loss of accuracy.")
attack_gates = (
    limit_option("--max-attack-success", None, "Of images made on the intact model; else: lower."),
    limit_option("--max-adaptive-success", None, "Of images made on the edited one; off."),
)


def group_gate(default: float | None) -> Decorator:
    """The gate on the recall that a group may lose."""
    return limit_option("--max-group-drop", default, "Recall a group of 150 may lose beyond doubt.")


keep_option = option(
    "--keep",
    metavar="TARGET",
    group="Scoring",
    help="Weigh this against the target: accuracy, class:3, group...",
)
