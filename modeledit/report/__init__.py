"""What was done and what came of it: the one record that people, gates and later runs read.

The JSON form is versioned by `schema`; keys are sorted, blocks that were not measured are absent.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modeledit.eval.changes import MetricChange
from modeledit.eval.fairness import GroupDrop, GroupMetrics
from modeledit.eval.intervals import Interval
from modeledit.report.trials import AttackTrial, ForgetTrial, GroupTrial, Trial

__all__ = [
    "AttackMetrics",
    "AttackTrial",
    "Candidate",
    "Changes",
    "ClassMetrics",
    "Cost",
    "Edit",
    "ForgetTrial",
    "GateResult",
    "GroupTrial",
    "Landing",
    "Measurement",
    "Report",
    "SliceMetrics",
    "StageCost",
    "Trial",
]
SCHEMA = 1


@dataclass(frozen=True)
class SliceMetrics:
    """One slice of a split. All in 0..1; `ece` is the expected calibration error, 15 bins."""

    n: int
    accuracy: float
    macro_f1: float
    ece: float


@dataclass(frozen=True)
class ClassMetrics:
    """One class against all others; precision is 0 where nothing was predicted as the class."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Landing:
    """Where the forgotten images go: the share that is now predicted as `name`."""

    name: str
    share: float


@dataclass(frozen=True)
class AttackMetrics:
    """A model under attack. Shares in 0..1; a rate over no image at all is None.

    n: images shown. attacked: those among them that this model classifies correctly.
    clean_accuracy, robust_accuracy: of all n; robust = right on the clean and on the changed image.
    success_rate: of the attacked; the images were made on this very model (adaptive).
    replay_success_rate, replay_restored_rate: images made on the intact model, over the
    `replay_attacked` that it classifies correctly: taken for what the attacker wants, given their
    true class. transfer_success_rate: the same for images made on another model.
    ci95: Wilson's intervals. masked_gradients: whether the attack understates what can be done.
    """

    name: str
    options: Mapping[str, Any]
    n: int
    attacked: int
    clean_accuracy: float
    robust_accuracy: float
    success_rate: float | None
    replay_attacked: int
    replay_success_rate: float | None
    replay_restored_rate: float | None
    ci95: Mapping[str, Interval]
    transfer_from: str | None = None
    transfer_success_rate: float | None = None
    masked_gradients: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Measurement:
    """A model on the test split. `forget` and `retain` exist for class targets only.

    groups, fairness: where groups were measured; `fairness` is `Fairness.to_dict`'s block, whose
    missing metrics are absent and listed. attack: where an attack was tried.
    """

    all: SliceMetrics
    per_class: tuple[ClassMetrics, ...]
    forget: SliceMetrics | None = None
    retain: SliceMetrics | None = None
    forgotten_recall: float | None = None  # of the forgotten class that is recalled most
    landings: tuple[Landing, ...] = ()
    groups: tuple[GroupMetrics, ...] = ()
    fairness: Mapping[str, Any] | None = None
    attack: AttackMetrics | None = None


@dataclass(frozen=True)
class GateResult:
    """`value` against `limit`, both shares; passed when value <= limit, or if `strict` below it."""

    name: str
    limit: float
    value: float
    passed: bool
    strict: bool | None = None  # absent where it is not


@dataclass(frozen=True)
class Changes:
    """What an edit did to the groups, on the same test images before and after.

    groups: recall lost by each. metrics: {fairness metric: its change}, missing ones left out.
    """

    groups: tuple[GroupDrop, ...]
    metrics: Mapping[str, MetricChange]


@dataclass(frozen=True)
class Edit:
    """What was changed, and by what."""

    scorer: str
    scorer_options: Mapping[str, Any]
    editor: str
    editor_options: Mapping[str, Any]
    granularity: str
    strength: float | int
    changed_weights: int
    changed_units: int
    changed_fraction: float
    by_layer: tuple[Mapping[str, Any], ...]
    digest: str
    left_out_units: int = 0


@dataclass(frozen=True)
class StageCost:
    """Seconds of wall clock and forward-equivalent images (a backward pass counts as two)."""

    seconds: float
    passes: int


@dataclass(frozen=True)
class Cost:
    """What the run took; peak_memory_mb is of the whole process."""

    score: StageCost
    search: StageCost
    edit: StageCost
    evaluate: StageCost
    peak_memory_mb: float


@dataclass(frozen=True)
class Candidate:
    """A scorer that was tried beside others.

    best: the strength that its search chose, on the validation split; its `chosen` and the one here
    say whether the edit was made of it. score, search: its part of the run's cost; the first one's
    includes what all share, such as making adversarial images. trials: every strength tried, where
    it was not chosen; else they are the report's `search`.
    """

    name: str
    scorer: str
    scorer_options: Mapping[str, Any]
    chosen: bool
    best: Trial
    score: StageCost
    search: StageCost
    trials: tuple[Trial, ...] = ()


@dataclass(frozen=True)
class Report:
    """The report of one task; blocks that were not measured are None or empty."""

    task: str
    target: str
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    seed: int
    versions: Mapping[str, str]
    before: Measurement
    cost: Cost
    edit: Edit | None = None
    after: Measurement | None = None
    changes: Changes | None = None
    search: tuple[Trial, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    gates: tuple[GateResult, ...] = ()
    verdict: str | None = None
    explanation: str | None = None
    notes: tuple[str, ...] = field(default=())
    schema: int = SCHEMA

    @property
    def passed(self) -> bool:
        """Whether every gate passed; without gates there is nothing to fail."""
        return all(gate.passed for gate in self.gates)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; absent instead of None, empty blocks left out."""
        found: dict[str, Any] = _plain(self)
        return found

    def to_json(self) -> str:
        """Sorted keys, two spaces, a newline at the end."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True) + "\n"


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return {name: _plain(part) for name, part in pairs if part is not None and part != ()}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return value
