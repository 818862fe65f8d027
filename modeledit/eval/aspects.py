"""What can be measured besides the classes: groups of people, and attacks."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from modeledit.attacks import Attack, PixelModel
from modeledit.attacks.square import Square
from modeledit.data import Data, Split
from modeledit.data.manifest import other_columns, read_manifest
from modeledit.errors import DataError, ModelEditError
from modeledit.eval.attacks import Adversarial, outcome
from modeledit.eval.fairness import Fairness, columns_with_both, measure
from modeledit.eval.masking import masked_gradients
from modeledit.eval.predictions import Predictions
from modeledit.eval.rates import Names
from modeledit.models import LoadedModel
from modeledit.report import AttackMetrics, Measurement
from modeledit.runtime import Runtime
from modeledit.targets import ForgetClass, Labels, Mask, Target

_TEST = 2  # the code of the test split in a table
_MOST_GROUPS = 50  # a column with more values is no column of groups


@dataclass(frozen=True, eq=False)
class Aspects:
    """What to measure besides the classes; nothing by default.

    positive: the class whose rates the groups are compared by; None measures no groups.
    attack: None attacks nothing. images: most that are attacked, drawn by class. queries: forward
    passes by image of the black-box check for masked gradients, which 0 leaves out. rival: another
    network, whose adversarial images are shown to the one that is measured.
    """

    positive: int | None = None
    attack: Attack | None = None
    images: int = 500
    queries: int = 1000
    rival: LoadedModel | None = None

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ModelEditError(f"{self.images} images to attack: give 1 or more")
        if self.queries < 0:
            raise ModelEditError(f"{self.queries} queries by image: give 0 or more")
        if self.rival is not None and self.attack is None:
            raise ModelEditError("another network to take images from needs an attack: name one")

    def check(self, target: Target | None) -> None:
        """Refuse to compare groups by a class that is forgotten: its images are left out."""
        if isinstance(target, ForgetClass) and self.positive in target.classes:
            raise ModelEditError(
                f"class {self.positive} is forgotten, so groups cannot be compared by it: name "
                "another one with --positive"
            )


def required(attack: Attack | None) -> Attack:
    """The attack; what needs one and has none is refused."""
    if attack is None:
        raise ModelEditError("no attack was named: give one, such as pgd")
    return attack


def described(attack: Attack) -> dict[str, Any]:
    """Its name and options, as JSON values."""
    return {"name": attack.name, "options": asdict(attack)}


def pixel_model(loaded: LoadedModel, module: nn.Module, runtime: Runtime) -> PixelModel:
    """A network as its attacker sees it: `module`, with the preparation of `loaded` before it."""
    prepared = loaded.preprocessing
    return PixelModel(module, prepared.mean, prepared.std, runtime.meter)


def groups_of(answers: Predictions, split: Split) -> Names:
    """(n,) the groups of the images that were answered."""
    if split.groups is None:
        raise DataError(
            "fairness compares groups, and the data has none: name their column with --group-column"
        )
    return split.groups[answers.positions]


def counted(labels: Labels, target: Target | None) -> Mask:
    """(n,) True for the images that groups are compared by and attacks are tried on: those of
    forgotten classes are left out, since losing them is no harm and no attacker's success."""
    if isinstance(target, ForgetClass):
        return ~target.mask(labels)
    return np.ones(len(labels), dtype=bool)


def compared(answers: Predictions, target: Target | None) -> Predictions:
    """The answers for the images that are counted."""
    return answers.where(counted(answers.labels, target))


def by_group(answers: Predictions, split: Split, positive: int, seed: int) -> Fairness:
    """The groups' rates and what they amount to."""
    groups = groups_of(answers, split)
    return measure(answers.labels, answers.predicted, groups, positive, seed=seed)


def suggested(data: Data, positive: int) -> tuple[str, ...]:
    """The columns of a manifest in which every group has images of the positive class and of
    another, so that no rate is missing; none where the data is no manifest."""
    kind, _, place = data.spec.partition(":")
    if kind != "csv":
        return ()
    names = {data.class_names[positive], str(positive)}
    columns, labels = {}, None
    for column in other_columns(Path(place).expanduser()):
        table = read_manifest(Path(place).expanduser(), (column,))
        if table.groups is not None and len(np.unique(table.groups)) <= _MOST_GROUPS:
            rows = table.splits == _TEST if (table.splits == _TEST).any() else slice(None)
            columns[column] = table.groups[rows]
            shown = np.array([text in names for text in table.texts], dtype=np.int64)
            labels = shown[table.codes][rows]
    return () if labels is None else columns_with_both(labels, columns, 1)


def with_groups(measured: Measurement, fairness: Fairness) -> Measurement:
    """The measurement with its blocks `groups` and `fairness`."""
    return replace(measured, groups=fairness.groups, fairness=fairness.to_dict()["fairness"])


def under_attack(
    network: PixelModel,
    replayed: Adversarial,
    fresh: Adversarial,
    aspects: Aspects,
    runtime: Runtime,
) -> AttackMetrics:
    """replayed: made on the intact network; fresh: the same images attacked on this one."""
    attack = fresh.attack
    adaptive = outcome(network, fresh, runtime)
    replay = outcome(network, replayed, runtime, among=replayed.correct)
    known = ("clean_accuracy", "robust_accuracy", "success_rate")
    ci95 = {name: adaptive.ci95[name] for name in known if name in adaptive.ci95}
    for name in ("success_rate", "restored_rate"):
        if name in replay.ci95:
            ci95[f"replay_{name}"] = replay.ci95[name]
    transfer = None
    if aspects.rival is not None:
        module = copy.deepcopy(aspects.rival.module).to(runtime.device).eval()
        rival = pixel_model(aspects.rival, module, runtime)
        transfer = outcome(
            network, replayed.again(attack, rival, runtime), runtime, among=replayed.correct
        )
        if "success_rate" in transfer.ci95:
            ci95["transfer_success_rate"] = transfer.ci95["success_rate"]
    checks = None
    if aspects.queries and not isinstance(attack, Square):
        checks = masked_gradients(network, fresh, runtime, queries=aspects.queries).to_dict()
    return AttackMetrics(
        **described(attack),
        n=adaptive.n,
        attacked=adaptive.attacked,
        clean_accuracy=adaptive.clean_accuracy,
        robust_accuracy=adaptive.robust_accuracy,
        success_rate=adaptive.success_rate,
        replay_attacked=replay.attacked,
        replay_success_rate=replay.success_rate,
        replay_restored_rate=replay.restored_rate,
        ci95=ci95,
        transfer_from=aspects.rival.spec if aspects.rival else None,
        transfer_success_rate=transfer.success_rate if transfer else None,
        masked_gradients=checks,
    )


def attack_notes(found: AttackMetrics, where: str = "") -> tuple[str, ...]:
    """What the reader of the numbers must know: what is missing, and what masks gradients. where:
    which of two networks they are of, such as " on the edited network"."""
    notes = []
    if found.success_rate is None:
        notes.append(
            f"{found.name}{where}: none of {found.n} images is classified correctly, so that no "
            "attack can succeed on any: its success rate is missing"
        )
    warnings = (found.masked_gradients or {}).get("warnings", ())
    return (*notes, *(f"{found.name}{where}: {warning}" for warning in warnings))
