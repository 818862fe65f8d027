"""Is an attack weak because the gradients mislead it? Carlini et al. 2019, section 5."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from modeledit.attacks import Goal, PixelModel
from modeledit.attacks._ascent import Ascent
from modeledit.attacks.fgsm import Fgsm
from modeledit.attacks.square import Square
from modeledit.errors import ModelEditError
from modeledit.eval.attacks import Adversarial, outcome, slices
from modeledit.runtime import Runtime

CHECKED = 100  # images, at most
FLAT = 0.05  # share of images without a slope that is worth a warning


@dataclass(frozen=True)
class MaskedGradients:
    """Signs that an attack understates what can be done. Counts are of `attacked` images, those
    that the network classifies correctly.

    white_box: images on which the attack succeeded; black_box: Square, without gradients;
    one_step: FGSM. flat: share of images at which the loss has no slope in any pixel.
    random_start, restarts: the attack's own. warnings: what is suspicious, in words.
    """

    n: int
    attacked: int
    white_box: int
    black_box: int
    one_step: int
    flat: float
    random_start: bool
    restarts: int
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "warnings": list(self.warnings)}


def masked_gradients(
    network: PixelModel,
    found: Adversarial,
    runtime: Runtime,
    *,
    images: int = CHECKED,
    queries: int = 5000,
) -> MaskedGradients:
    """Check the attack that made `found` on this network, on at most `images` of its images, spread
    evenly. Square takes up to `queries` forward passes of each."""
    if images < 1:
        raise ModelEditError(f"a check of {images} images was asked for: give 1 or more")
    attack = found.attack
    chosen = torch.linspace(0, len(found) - 1, min(images, len(found))).round().long()
    some = found.subset(chosen)
    same = {"eps": attack.eps, "norm": attack.norm, "targeted": attack.targeted}
    others = (Square(**same, queries=queries), Fgsm(**same))  # type: ignore[arg-type]
    outcomes = [outcome(network, some, runtime)]
    outcomes += [outcome(network, some.again(o, network, runtime), runtime) for o in others]
    white, black, one = (int(o.succeeded.sum()) for o in outcomes)
    starts = (attack.random_start, attack.restarts) if isinstance(attack, Ascent) else (False, 1)
    checks = MaskedGradients(
        n=len(some),
        attacked=outcomes[0].attacked,
        white_box=white,
        black_box=black,
        one_step=one,
        flat=_flat(network, some, runtime),
        random_start=starts[0],
        restarts=starts[1],
        warnings=(),
    )
    return replace(checks, warnings=_warnings(checks))


def _flat(network: PixelModel, found: Adversarial, runtime: Runtime) -> float:
    """Share of the clean images at which the attacker's loss has no slope."""
    flat = 0
    for rows in slices(len(found), runtime):
        labels = found.labels[rows].to(runtime.device)
        targets = None if found.targets is None else found.targets[rows].to(runtime.device)
        pixels = found.clean[rows].to(runtime.device)
        _, gradient = network.gradient(pixels, Goal(labels, targets).cross_entropy)
        flat += int((gradient.flatten(1) == 0).all(1).sum())
    return flat / len(found)


def _warnings(checks: MaskedGradients) -> tuple[str, ...]:
    said = []
    of = f"of {checks.attacked}"
    if checks.black_box > checks.white_box:
        said.append(
            f"Square, which sees no gradients, succeeds on {checks.black_box} {of} images and the "
            f"attack on {checks.white_box}: its gradients mislead it, its success is understated"
        )
    if checks.one_step > checks.white_box:
        said.append(
            f"one step succeeds on {checks.one_step} {of} images and the attack on "
            f"{checks.white_box}: more steps should not do worse, its success is understated"
        )
    if checks.flat > FLAT:
        said.append(
            f"the loss has no slope at {checks.flat:.0%} of the images: "
            "attack with apgd and loss=dlr, which does not flatten"
        )
    if not checks.random_start:
        said.append("the attack has no random start: it may stay where gradients are masked")
    elif checks.restarts == 1:
        said.append("the attack was started once: with more restarts it may get further")
    return tuple(said)
