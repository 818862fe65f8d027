"""Scores that were made before, from --scores. torch comes in here."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from modeledit.errors import ModelEditError

if TYPE_CHECKING:
    from modeledit.attacks import Attack
    from modeledit.data import Data
    from modeledit.models import LoadedModel
    from modeledit.reuse import Task
    from modeledit.types import Scores


def scores(path: Path, task: Task) -> Scores:
    """Those of a file, if the task judges what they are for."""
    from modeledit import reuse
    from modeledit.checkpoint import load_scores

    found = load_scores(path)
    reuse.check(found, task, shlex.quote(str(path)))
    return found


def refuse_scoring() -> None:
    """Nothing but --scores may be said of scoring where scores are given."""
    ctx = click.get_current_context()
    for param in ctx.command.params:
        given = ctx.get_parameter_source(param.name or "") == ParameterSource.COMMANDLINE
        scoring = getattr(param, "group", "") == "Scoring" or param.name == "save_scores"
        if given and scoring and param.name != "scores":
            raise ModelEditError(
                f"{param.opts[-1]} is for scoring, and --scores brings scores: drop one"
            )


def check_scores(found: Scores, network: LoadedModel, images: Data) -> None:
    """Refuse those of another model or of other images."""
    from modeledit import reuse
    from modeledit.judging import Baseline

    reuse.check_origin(found, Baseline(network, images))


def attack_of(found: Scores) -> Attack | None:
    """The attack that scores were made for, where they say so."""
    from modeledit import reuse

    return reuse.attack_of(found)
