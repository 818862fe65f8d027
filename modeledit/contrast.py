"""Scores of two behaviours at once: what carries the one and spares the other."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from modeledit.errors import ModelEditError
from modeledit.scorers import Scorer
from modeledit.targets import AttackSuccess, GroupRecall, Target
from modeledit.types import Scores


def contrasted(scores: Scores, kept: Scores, target: Target, keep: Target) -> Scores:
    """values: a / rms(a) - b / rms(b), where a is what a unit contributes to the behaviour under
    edit and b to the one that is kept; both signed, their root mean squares over all units.

    `raw` and the rest are those of `scores`. Needs signed contributions of the same units.
    """
    for each in (scores, kept):
        if not each.raw or "steps" in each.header:
            raise unsigned(str(each.header.get("scorer")))
    a = {name: _oriented(raw, target) for name, raw in scores.raw.items()}
    b = dict(kept.raw)  # of what is kept, every target's contribution counts as it is
    sizes = _size(a), _size(b)
    values = {name: a[name] / sizes[0] - b[name] / sizes[1] for name in a}
    header = {**scores.header, "keep": str(keep)}
    header["passes"] = int(scores.header["passes"]) + int(kept.header["passes"])
    return replace(scores, values=values, header=header)


def check(scorer: Scorer, target: Target, keep: Target | None) -> None:
    """Refuse, before anything is scored, what cannot be weighed."""
    if keep is not None and str(keep) == str(target):
        raise ModelEditError(f"--keep {keep} is what is edited: name another target")
    if isinstance(keep, AttackSuccess):
        raise ModelEditError("the success of an attack is nothing to keep: use another target")
    if keep is not None and (scorer.granularity != "filter" or scorer.ordered):
        raise unsigned(scorer.name)


def unsigned(scorer: str) -> ModelEditError:
    """The error for a scorer whose scores are an order of editing, or have no sign."""
    return ModelEditError(
        f"{scorer} gives no signed contributions to weigh against each other: use leave-one-out, "
        "gate-ig or neuron-shapley, or drop --keep"
    )


def _oriented(raw: Tensor, target: Target) -> Tensor:
    """Larger = edited first: units that raise the metric, or for groups those that lower it."""
    return -raw if isinstance(target, GroupRecall) else raw


def _size(raw: dict[str, Tensor]) -> Tensor:
    """The root mean square over all units, 1 where all are 0."""
    joined = torch.cat([tensor.flatten() for tensor in raw.values()]).double()
    size = joined.square().mean().sqrt()
    return torch.where(size > 0, size, torch.ones_like(size)).float()
