"""Hardening: images that an attack made for the unedited network no longer do what it wants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from modeledit.errors import DataError
from modeledit.eval.aspects import described, pixel_model, required
from modeledit.eval.gates import improved
from modeledit.objectives import NO_EFFECT, Objective, Seen, beside
from modeledit.report import AttackTrial, Changes, GateResult, Measurement, Trial
from modeledit.runtime import Runtime
from modeledit.selection import Strength
from modeledit.targets import AttackSuccess, Target

if TYPE_CHECKING:
    from modeledit.data import Split
    from modeledit.eval.attacks import Adversarial
    from modeledit.judging import Baseline

WEAKENED = "replay weakened"
IN_NOISE = "replay weakened, within noise"  # the 95 % interval of the success after holds it before


@dataclass(frozen=True)
class Hardening(Objective):
    """Among the edits that keep accuracy the lowest success of the replayed images, then the
    smallest loss of accuracy, then the fewest changes.

    With a limit on the replayed success, successes within it count as equal.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        required(self.aspects.attack)

    @property
    def target(self) -> Target:
        return AttackSuccess()

    @property
    def budget(self) -> float:
        return 1.0 if self.limits.max_drop is None else self.limits.max_drop

    def scored(
        self, baseline: Baseline, runtime: Runtime, along: int = 1
    ) -> tuple[Split, Split | None]:
        """Adversarial images of the training split that do what the attacker wants, labelled with
        that: the target, or without one the class they are taken for. And the clean images."""
        from modeledit.data import Split

        made = baseline.crafted(self.aspects, baseline.data.train, runtime)
        network = pixel_model(baseline.loaded, baseline.copy(runtime), runtime)
        parts = torch.split(made.changed, runtime.batch_size)
        shown = [network.logits(part.to(runtime.device)) for part in parts]
        predicted = torch.cat(shown).argmax(1).cpu()
        wanted = predicted if made.targets is None else made.targets
        rows = (predicted == wanted) & (predicted != made.labels) & torch.from_numpy(made.correct)
        if not bool(rows.any()):
            attack = required(self.aspects.attack)
            untargeted = ", or drop --targeted" if attack.targeted else ""
            raise DataError(
                f"{attack.name} succeeds on none of {len(made)} training images: there is nothing "
                f"to remove; give a larger --eps than {attack.eps:.4g} or more --steps{untargeted}"
            )
        ways = on_the_way(made.subset(rows.nonzero()[:, 0]), along)
        labels = wanted[rows].repeat_interleave(along)
        attacked = TensorDataset(network.inputs(ways), labels)
        return Split.of(attacked, "train, attacked"), baseline.data.train

    def header(self) -> dict[str, Any]:
        return {"attack": described(required(self.aspects.attack))}

    def trial(
        self, strength: Strength, changed: int, before: Seen, after: Seen, errors_kept: float
    ) -> Trial:
        success, restored = after.success()
        drop, error = self.lost(before.answers, after.answers)
        return AttackTrial(
            strength=strength,
            changed_weights=changed,
            images=len(after.answers),
            feasible=self.keeps(before, after, errors_kept),
            success=success,
            restored=restored,
            accuracy=float(after.answers.correct.mean()),
            accuracy_drop=drop,
            accuracy_drop_se=error,
        )

    def keeps_attack(self, success: float) -> bool:
        """The success is what is searched for: any edit that keeps the rest is feasible."""
        del success
        return True

    def content(self, trial: Trial) -> bool:
        """No replayed image succeeds, or no more than the limit allows."""
        most = self.limits.max_attack_success or 0.0
        return isinstance(trial, AttackTrial) and trial.feasible and trial.success <= most

    def preference(self, trial: Trial) -> tuple[float, ...]:
        if not isinstance(trial, AttackTrial):
            raise TypeError(f"a trial of another objective: {trial}")
        equal = self.limits.max_attack_success or 0.0
        return max(trial.success, equal), trial.accuracy_drop, trial.changed_weights

    def surely_behind(self, trial: Trial, best: Trial) -> bool:
        """What is attacked was run whole: the successes are known."""
        return self.preference(trial)[0] > self.preference(best)[0]

    def gates(
        self, before: Measurement, after: Measurement, changes: Changes | None
    ) -> tuple[GateResult, ...]:
        """Lower than before, unless a limit says how low."""
        gates = super().gates(before, after, changes)
        if self.limits.max_attack_success is not None:
            return gates
        return (improved("replayed attack success", _replayed(before), _replayed(after)), *gates)

    def verdict(
        self, before: Measurement, after: Measurement, changes: Changes | None
    ) -> tuple[str, str]:
        """Never more than that the replayed images fail: the attack may be made anew."""
        gates = self.gates(before, after, changes)
        old, new = _replayed(before), _replayed(after)
        numbers = f"success of the replayed images {100 * old:.1f} % before, {100 * new:.1f} after"
        lost = beside([gate for gate in gates if gate.name == "accuracy drop"])
        if lost is not None:
            return lost
        if new >= old:
            return NO_EFFECT, numbers
        found = after.attack
        again = found.success_rate if found is not None else None
        made = "could not be made" if again is None else f"succeed on {100 * again:.1f} %"
        why = f"{numbers}; images made anew on the edited network {made}"
        interval = found.ci95.get("replay_success_rate") if found is not None else None
        noise = interval is not None and old <= interval[1]
        return beside(gates) or (IN_NOISE if noise else WEAKENED, why)


def on_the_way(made: Adversarial, along: int) -> Tensor:
    """(n * along, C, H, W) pixels: of each image those at 1/along, 2/along ... of its change."""
    shares = torch.arange(1, along + 1).view(1, -1, 1, 1, 1) / along
    ways = torch.lerp(made.clean[:, None], made.changed[:, None], shares)  # exact at both ends
    return ways.flatten(0, 1)


def _replayed(found: Measurement) -> float:
    rate = found.attack.replay_success_rate if found.attack is not None else None
    if rate is None:
        raise DataError(
            "no attacked test image is classified correctly: give more, or a better model"
        )
    return rate
