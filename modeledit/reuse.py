"""Scores made before: of which model and images they are, and which job edits by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from modeledit import plugins, targets
from modeledit.attacks import Attack
from modeledit.errors import ModelEditError
from modeledit.eval.aspects import described
from modeledit.judging import Baseline
from modeledit.targets import Target
from modeledit.types import Scores

Task = Literal["edit", "repair", "harden"]
TASKS: Mapping[str, Task] = {"class": "edit", "group": "repair", "attack": "harden"}
JUDGED: Mapping[Task, str] = {
    "edit": "class:NAME",
    "repair": "group or group:worst",
    "harden": "attack",
}


def target_of(scores: Scores, baseline: Baseline, task: Task) -> Target:
    """What the scores are for. Raises ModelEditError unless they were made of this model and data,
    and for something that the task judges."""
    check_origin(scores, baseline)
    check(scores, task)
    numbers = tuple(map(str, range(len(baseline.data.class_names))))  # not names that look like it
    return targets.parse(str(scores.header.get("target", "")), numbers)


def check_origin(scores: Scores, baseline: Baseline) -> None:
    """Refuse scores of another model or of other images; merged ones do not name their images."""
    if scores.header.get("model_digest", baseline.digest) != baseline.digest:
        raise ModelEditError("the scores were made for another model: score this one first")
    if scores.header.get("data_digest") not in (None, baseline.data.digest()):
        raise ModelEditError(
            "the scores were made on other data, or on another cut of it, whose training images "
            "may be test images here: use the same --data, --group-column, --limit, --hold-out "
            f"and --seed ({scores.header.get('seed')})"
        )


def check(scores: Scores, task: Task, name: str | None = None) -> None:
    """Refuse scores for what the task does not judge. name: of their file, for the message."""
    target = str(scores.header.get("target", "nothing that they name"))
    fit = task_of(target)
    if fit == task:
        return
    which = f"{name} is" if name else "these scores are"
    advice = f"use `modeledit {fit} --scores {name or 'FILE'}`" if fit else "score such a target"
    raise ModelEditError(f"{which} for {target}, and {task} judges {JUDGED[task]}: {advice}")


def task_of(target: str) -> Task | None:
    """The job that edits by scores for a target; none where the scores are only to be looked at."""
    return TASKS.get(target.partition(":")[0])


def attack_of(scores: Scores) -> Attack | None:
    """The attack that the scores were made for, where they say so."""
    found = scores.header.get("attack")
    if found is None:
        return None
    made: Attack = plugins.create("attacks", found["name"], found["options"])
    return made


def attack_note(scores: Scores, judged: Attack) -> tuple[str, ...]:
    """What the reader must know where the judged attack is not the one that was scored."""
    recorded = scores.header.get("attack")
    if recorded is None:
        return ("the scores do not say which attack they were made for",)
    here = described(judged)
    if recorded["name"] != here["name"]:
        return (f"the scores were made for {recorded['name']}, and {here['name']} is judged",)
    there, now = recorded["options"], here["options"]
    pairs = [(key, there.get(key), now[key]) for key in now if there.get(key) != now[key]]
    if not pairs:
        return ()
    told = ", ".join(
        f"{key} {_short(scored)} (judged: {_short(own)})" for key, scored, own in pairs
    )
    return (f"the scores were made for another {here['name']} attack: {told}",)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
