"""Gates: numbers of the report against stated limits, decided once, on the test split."""

from __future__ import annotations

from dataclasses import dataclass, fields

from modeledit.errors import ModelEditError
from modeledit.eval.fairness import RELIABLE, GroupDrop
from modeledit.report import Changes, GateResult, Measurement

_ROUNDING = 1e-12  # losing 2 of 200 images passes a limit of .01, whatever its last bit


@dataclass(frozen=True)
class Limits:
    """What an edit must keep, in 0..1; None is not gated.

    max_forget: recall left of the forgotten class that is recalled most.
    max_retain_drop: accuracy lost on all other classes. max_drop: on all images.
    max_group_drop: recall that a group of 150 images or more lost beyond doubt: the lower end of
    the 95 % interval of its paired drop. max_attack_success: of images made on the intact network.
    max_adaptive_success: of images made on the edited one.
    """

    max_forget: float | None = None
    max_retain_drop: float | None = None
    max_drop: float | None = None
    max_group_drop: float | None = None
    max_attack_success: float | None = None
    max_adaptive_success: float | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None and not 0 <= value <= 1:
                flag = each.name.replace("_", "-")
                raise ModelEditError(f"--{flag} {value} is not a share: give a number in 0..1")

    def refuse_unmeasured(self, *, groups: bool, attack: bool) -> None:
        """A limit on what is not measured would never fail."""
        if self.max_group_drop is not None and not groups:
            raise ModelEditError(
                "--max-group-drop needs groups: add --measure groups (harden: --groups), or drop it"
            )
        for name in ("max_attack_success", "max_adaptive_success"):
            if getattr(self, name) is not None and not attack:
                flag = name.replace("_", "-")
                raise ModelEditError(
                    f"--{flag} needs an attack: add --measure attack (repair: --attack pgd), or "
                    "drop it"
                )


def judge(
    before: Measurement, after: Measurement, limits: Limits, changes: Changes | None = None
) -> tuple[GateResult, ...]:
    """One result for each limit, in a fixed order."""
    gates = [*_of_classes(before, after, limits), *_of_groups(changes, limits)]
    if limits.max_drop is not None:
        gates.append(
            gate("accuracy drop", limits.max_drop, before.all.accuracy - after.all.accuracy)
        )
    return (*gates, *_of_attacks(after, limits))


def gate(name: str, limit: float, value: float) -> GateResult:
    """Passed up to the limit."""
    return GateResult(name, limit, value, passed=value <= limit + _ROUNDING)


def improved(name: str, before: float, after: float) -> GateResult:
    """Passed below what it was before."""
    return GateResult(name, before, after, passed=after < before - _ROUNDING, strict=True)


def most_harmed(changes: Changes) -> GroupDrop | None:
    """Of the groups of 150 images or more, the one that most surely lost recall."""
    judged = [(drop.ci95[0], drop) for drop in changes.groups if drop.n >= RELIABLE and drop.ci95]
    return max(judged, key=lambda pair: pair[0])[1] if judged else None


def _of_classes(before: Measurement, after: Measurement, limits: Limits) -> list[GateResult]:
    asked = limits.max_forget, limits.max_retain_drop
    if asked == (None, None):
        return []
    if after.forgotten_recall is None or after.retain is None or before.retain is None:
        raise ModelEditError("the test split needs images of the forgotten and of other classes")
    drop = before.retain.accuracy - after.retain.accuracy
    values = (("forgotten recall", after.forgotten_recall), ("retain accuracy drop", drop))
    return [
        gate(name, limit, value)
        for (name, value), limit in zip(values, asked, strict=True)
        if limit is not None
    ]


def _of_groups(changes: Changes | None, limits: Limits) -> list[GateResult]:
    if limits.max_group_drop is None or changes is None:
        return []
    worst = most_harmed(changes)
    if worst is None or worst.ci95 is None:
        return []
    return [gate(f"sure recall drop of {worst.name}", limits.max_group_drop, worst.ci95[0])]


def _of_attacks(after: Measurement, limits: Limits) -> list[GateResult]:
    found, gates = after.attack, []
    for name, limit, key in (
        ("replayed attack success", limits.max_attack_success, "replay_success_rate"),
        ("adaptive attack success", limits.max_adaptive_success, "success_rate"),
    ):
        if limit is not None and found is not None:
            # A network without one right answer has nothing left that an attack could break.
            value = getattr(found, key)
            gates.append(gate(name, limit, 1.0 if value is None else value))
    return gates
