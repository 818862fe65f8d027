"""The table of hardening.py, and what `modeledit harden` takes of its rows."""

from __future__ import annotations

from typing import Any

LOSSES = (0.03, 0.05)  # of clean accuracy, at which the frontier is read
ROUNDING = 1e-9  # 1 - 0.97 is a little more than 0.03
DEFAULT = "modeledit (default)"  # the better of these on the validation images
OURS = {"modeledit (stepwise-peps)": "last layers",
        "modeledit (stepwise-peps, all layers)": "all layers"}  # fmt: skip


def best(frontier: list[dict[str, Any]], loss: float) -> dict[str, Any]:
    """The trial on validation with the least success within a loss; without any, nothing edited."""
    fit = [trial for trial in frontier if trial["drop"] <= loss + ROUNDING]
    return min(fit, key=lambda t: t["success"]) if fit else {"count": 0, "drop": 0, "success": 1}


def default(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of our rows the better one on validation at each loss, as `modeledit harden` takes it."""
    ours = [row for row in rows if row["method"] in OURS]
    if len(ours) < len(OURS):
        return []
    chosen = {}
    for loss in ours[0]["chosen"]:
        found = [best(row["frontier"], float(loss)) for row in ours]
        ranks = [(trial["success"], trial["drop"], trial["count"]) for trial in found]
        taken = ours[ranks.index(min(ranks))]
        chosen[loss] = {**taken["chosen"][loss], "taken": OURS[taken["method"]]}
    seconds = sum(row["score_seconds"] for row in ours)
    made = {"method": DEFAULT, "chosen": chosen, "score_seconds": seconds}
    return [{**made, "rank_correlation": None}]


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown."""
    first = rows[0]
    before = first["before"]
    step = f" of {first['step_size']:.4f}" if first.get("step_size") else ""
    made_on = f" Transfer: of images made on {first['transfer']}" if first.get("transfer") else ""
    if made_on:
        moved = before.get("transfer", {}).get("success_rate")
        made_on += "." if moved is None else f"; unedited {moved:.3f}."
    finer = f" Stepwise-peps with gain {first['gain']:g}." if first.get("gain") else ""
    weaker = f" Scored on images of eps {first['train_eps']:.4f}." if first.get("train_eps") else ""
    lines = [
        f"Targeted PGD, eps {first['eps']:.4f}, {first['steps']} steps{step}; {before['n']} test "
        f"images, {before['attacked']} of them classified correctly when clean. Unedited: clean "
        f"accuracy {before['clean_accuracy']:.3f}, success {before['success_rate']:.3f}. Success: "
        "share taken for the attacker's target, of images made on the unedited network (replayed) "
        "or on the edited one (adaptive: what an attacker who has the weights gets)."
        + made_on
        + finer
        + weaker,
        "",
        "| method | allowed loss | edited | clean accuracy | replayed, 95 % | true class back "
        f"| adaptive | {'transfer | ' if first.get('transfer') else ''}s, scoring |",
        "|---" * (9 if first.get("transfer") else 8) + "|",
    ]
    for row in [*default(rows), *rows]:
        for loss, one in row["chosen"].items():
            replay, again = one["replay"], one["adaptive"]
            low, high = replay["ci95"]["success_rate"]
            other = f" {one['transfer']['success_rate']:.3f} |" if "transfer" in one else ""
            taken = f": {one['taken']}" if "taken" in one else ""
            lines.append(
                f"| {row['method']}{taken} | {100 * float(loss):g} points | {one['count']:,} "
                f"| {replay['clean_accuracy']:.3f} "
                f"| {replay['success_rate']:.3f} ({low:.3f} to {high:.3f}) "
                f"| {replay['restored_rate']:.3f} | {again['success_rate']:.3f} |{other}"
                f" {row['score_seconds']:.0f} |"
            )
    for row in rows:
        if row["rank_correlation"] is not None:
            lines += ["", f"{row['method']}: rank correlation of the values for the attack and for "
                      f"accuracy {row['rank_correlation']:.2f}."]  # fmt: skip
    return lines
