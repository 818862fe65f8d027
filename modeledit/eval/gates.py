"""Gates and the verdict: numbers against stated limits, decided once, on the test split."""

from __future__ import annotations

from dataclasses import dataclass

from modeledit.errors import ModelEditError
from modeledit.report import GateResult, Measurement

NO_EFFECT = "no effect"
UTILITY_LOST = "utility lost"
SUPPRESSED = "suppressed, unverified"


@dataclass(frozen=True)
class Limits:
    """What an edit for class targets must keep, in 0..1.

    max_forget: recall left of the forgotten class that is recalled most.
    max_retain_drop: accuracy lost on all other classes.
    """

    max_forget: float = 0.01
    max_retain_drop: float = 0.01

    def __post_init__(self) -> None:
        for name, value in (
            ("max-forget", self.max_forget),
            ("max-retain-drop", self.max_retain_drop),
        ):
            if not 0 <= value <= 1:
                raise ModelEditError(f"--{name} {value} is not a share: give a number in 0..1")


def judge(before: Measurement, after: Measurement, limits: Limits) -> tuple[GateResult, ...]:
    """The gates of a class target."""
    if after.forgotten_recall is None or after.retain is None or before.retain is None:
        raise ModelEditError("the test split needs images of the forgotten and of other classes")
    drop = before.retain.accuracy - after.retain.accuracy
    return (
        _gate("forgotten recall", limits.max_forget, after.forgotten_recall),
        _gate("retain accuracy drop", limits.max_retain_drop, drop),
    )


def _gate(name: str, limit: float, value: float) -> GateResult:
    # Losing 2 of 200 images passes a limit of .01, whatever the rounding of the difference.
    return GateResult(name, limit, value, passed=value <= limit + 1e-12)


def verdict(before: Measurement, after: Measurement, limits: Limits) -> tuple[str, str]:
    """The verdict and one sentence why. Utility first: without it there is nothing to claim.

    Without retrained references "suppressed, unverified" is the most that can be said: outputs do
    not tell whether the class is still represented inside.
    """
    forget, retain = judge(before, after, limits)
    if not retain.passed:
        return UTILITY_LOST, (
            f"accuracy on the retained classes fell by {100 * retain.value:.1f} points, "
            f"limit {100 * retain.limit:.1f}"
        )
    recalls = f"recall {before.forgotten_recall:.3f} before, {after.forgotten_recall:.3f} after"
    if (before.forgotten_recall or 0.0) <= forget.limit:
        return NO_EFFECT, f"there was nothing left to forget: {recalls}, limit {forget.limit:g}"
    if not forget.passed:
        return NO_EFFECT, f"the class is still recognised: {recalls}, limit {forget.limit:g}"
    return SUPPRESSED, (
        "its images are no longer recognised; whether the class is still represented inside the "
        "network was not tested"
    )
