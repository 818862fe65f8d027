"""The frontier: every strength that was tried on the validation split, and what came of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Trial(ABC):
    """One strength. feasible: whether it keeps all that must be kept, with a margin. images: how
    many of the validation images it was read from, fewer than all where the first ones told that it
    is lost, or surely not the best.
    """

    strength: float | int
    changed_weights: int
    images: int
    feasible: bool
    chosen: bool = False

    @property
    @abstractmethod
    def lost(self) -> float:
        """Accuracy lost on the images that must not suffer, positive = worse."""

    @property
    @abstractmethod
    def lost_se(self) -> float:
        """Its paired standard error."""


@dataclass(frozen=True, kw_only=True)
class ForgetTrial(Trial):
    """forget: recall of the forgotten class that is recalled most, with a standard error of at
    least one image; forget_tail: the same, estimated below the resolution of the images at hand
    (see `objectives.forgetting.tail`). retain_drop: accuracy lost on the retained classes, with its
    paired standard error.
    """

    forget: float
    forget_se: float
    forget_tail: float
    retain: float
    retain_drop: float
    retain_drop_se: float

    @property
    def lost(self) -> float:
        return self.retain_drop

    @property
    def lost_se(self) -> float:
        return self.retain_drop_se


@dataclass(frozen=True, kw_only=True)
class GroupTrial(Trial):
    """value: the metric that is repaired, as the report names it. worst_group: the one of least
    recall. accuracy, accuracy_drop: of all images, with the drop's paired standard error.
    most_harmed: the group whose recall fell most, by group_drop."""

    value: float
    worst_group: str
    accuracy: float
    accuracy_drop: float
    accuracy_drop_se: float
    most_harmed: str
    group_drop: float

    @property
    def lost(self) -> float:
        return self.accuracy_drop

    @property
    def lost_se(self) -> float:
        return self.accuracy_drop_se


@dataclass(frozen=True, kw_only=True)
class AttackTrial(Trial):
    """success: share of the replayed images that are taken for what the attacker wants; restored:
    that get their true class. accuracy, accuracy_drop: of clean images, with its paired standard
    error."""

    success: float
    restored: float
    accuracy: float
    accuracy_drop: float
    accuracy_drop_se: float

    @property
    def lost(self) -> float:
        return self.accuracy_drop

    @property
    def lost_se(self) -> float:
        return self.accuracy_drop_se
