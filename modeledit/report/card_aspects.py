"""What a model card says of groups and attacks, and what nothing in it proves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]
METRICS = {
    "accuracy_score_group_min": "recall of the worst group",
    "accuracy_score_difference": "recall, largest difference",
    "demographic_parity_difference": "demographic parity difference",
    "equal_opportunity_difference": "equal opportunity difference",
    "equalized_odds_difference": "equalized odds difference",
}
ATTACK = {
    "clean_accuracy": "clean accuracy",
    "replay_success_rate": "success of images made on the original",
    "success_rate": "success of images made anew on the model itself",
    "transfer_success_rate": "success of images made on another model",
    "replay_restored_rate": "images made on the original, given their true class",
    "robust_accuracy": "robust accuracy",
}


def aspects(report: Json) -> list[str]:
    """The sections of what was measured besides the classes."""
    before, after = report["before"], report["after"]
    parts = []
    if "changes" in report:
        parts += [_groups(before, after, report["changes"])]
        parts += [_fairness(before["fairness"], after["fairness"], report["changes"])]
    if "attack" in before and "attack" in after:
        parts += [_attack(before["attack"], after["attack"])]
    return parts


def _groups(before: Json, after: Json, changes: Json) -> str:
    rows = []
    for old, new, drop in zip(before["groups"], after["groups"], changes["groups"], strict=True):
        low, high = drop.get("ci95", (None, None))
        change = "-" if low is None else f"{-high:+.4f} to {-low:+.4f}"
        pair = f"{number(old['recall'])} -> {number(new['recall'])}"
        rows.append((text(old["name"]), f"{old['n']:,}", pair, change))
    head = ("group", "n", "recall", "95 % interval of the change")
    return f"## Groups\n\n{table(head, rows)}"


def _fairness(before: Json, after: Json, changes: Json) -> str:
    rows = []
    for key, name in METRICS.items():
        if key in before and key in after:
            interval = changes["metrics"].get(key, {}).get("ci95")
            change = "-" if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}"
            rows.append((name, f"{number(before[key])} -> {number(after[key])}", change))
    head = ("over groups", "value", "95 % interval of the change")
    return table(head, rows)


def _attack(before: Json, after: Json) -> str:
    options = ", ".join(f"{key}={value}" for key, value in sorted(before["options"].items()))
    rows = []
    for key, name in ATTACK.items():
        if key in before and key in after:
            low, high = after["ci95"].get(key, (None, None))
            interval = "-" if low is None else f"{number(low)} to {number(high)}"
            rows.append((name, f"{number(before[key])} -> {number(after[key])}", interval))
    head = (f"{after['n']:,} test images", "before -> after", "95 % interval after")
    return f"## Under attack\n\n{text(before['name'])} ({options}).\n\n{table(head, rows)}"


def limits(report: Json) -> str:
    """What the numbers do not say."""
    if report["target"] == "attack":
        return HARDENED
    return REPAIRED if report["target"].startswith("group") else LIMITS


LIMITS = (
    "## Limits\n\n"
    "The numbers say what this checkpoint answers on one test split. They prove nothing about "
    "erasure: the network may still represent the class inside, a short training or a change of "
    "the output layer may bring it back, and membership in the training data was not tested "
    "unless stated above. Images of a forgotten class are not rejected, they get another label. "
    "This is no legal statement of any kind."
)
REPAIRED = (
    "## Limits\n\n"
    "The numbers say how this checkpoint treats the groups of one test split. Groups that were not "
    "measured may have lost; small groups have wide intervals, and those under 150 images were "
    "reported and not gated. A smaller gap in one metric can be a larger one in another. "
    "This is no legal statement of any kind."
)
HARDENED = (
    "## Limits\n\n"
    "The numbers say what images that one attack made for the original network do to this one. "
    "That is all: an attacker who has these weights makes new images, and the row of images made "
    "anew says how far they get; a stronger attack gets further. Other attacks were not tried."
)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(value: str) -> str:
    """A name from outside, on one line, unable to break a table or start markup."""
    flat = " ".join(str(value).split())
    return "".join(f"\\{c}" if c in "\\|*_`<>[]#" else c for c in flat)


def number(value: float) -> str:
    """Four decimals."""
    return f"{value:.4f}"
