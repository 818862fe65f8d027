"""The model card says what was done, what it cost, and what it does not mean."""

from __future__ import annotations

import re
from typing import Any

import pytest

from modeledit.report.card import model_card


def report() -> dict[str, Any]:
    def classes(*rows: tuple[str, float]) -> list[dict[str, Any]]:
        return [{"name": n, "precision": 0.5, "recall": f, "f1": f, "support": 10} for n, f in rows]

    def slices(forget: float, retain: float) -> dict[str, Any]:
        return {
            name: {"accuracy": value, "macro_f1": value, "n": 1200, "ece": 0.02}
            for name, value in (("forget", forget), ("retain", retain), ("all", retain / 2))
        }

    return {
        "task": "unlearn",
        "target": "class:1",
        "model": {"spec": "timm:resnet18", "digest": "a" * 64, "edited": "b" * 64},
        "data": {"spec": "folder:x|y", "digest": "c" * 64, "splits": {"test": 1200}},
        "edit": {
            "scorer": "peps",
            "editor": "zero",
            "granularity": "weight",
            "strength": 0.003,
            "changed_weights": 33516,
            "changed_units": 0,
            "changed_fraction": 0.003,
            "digest": "d" * 64,
        },
        "before": {
            **slices(0.9, 0.92),
            "per_class": classes(("cat", 0.9), ("d|og", 0.9), ("ship", 0.8)),
        },
        "after": {
            **slices(0.0, 0.9125),
            "per_class": classes(("cat", 0.85), ("d|og", 0.0), ("ship", 0.79)),
            "landings": [{"name": "cat", "share": 0.75}, {"name": "ship", "share": 0.25}],
        },
        "gates": [{"name": "forgotten recall", "limit": 0.01, "value": 0.0, "passed": True}],
        "verdict": "suppressed, unverified",
        "explanation": "the class is no longer predicted",
        "notes": ["the split was cut"],
        "seed": 0,
        "versions": {"torch": "2", "modeledit": "0.1"},
    }


def test_numbers_are_the_reports() -> None:
    card = model_card(report(), {"architecture": "resnet18"})
    assert "33,516 weights, 0.300% of the network" in card
    assert "| forgotten classes | 1,200 | 0.9000 -> 0.0000 | 0.9000 -> 0.0000 |" in card
    assert "| all other classes | 1,200 | 0.9200 -> 0.9125 |" in card
    assert "**Verdict: suppressed, unverified.** The class is no longer predicted." in card
    assert "| forgotten recall | 0.0000 | 0.0100 | passed |" in card
    assert "cat 75.0%, ship 25.0%" in card
    assert "- the split was cut" in card


def test_the_most_harmed_class_is_not_the_forgotten_one() -> None:
    card = model_card(report())
    assert "**cat**, F1 0.9000 -> 0.8500" in card
    kept = report()
    kept["after"]["per_class"] = kept["before"]["per_class"]
    assert "No other class lost F1." in model_card(kept)


def test_the_warnings_are_there_and_the_claims_are_not() -> None:
    card = model_card(report())
    assert "Do not ship `undo.safetensors`" in card
    assert "prove nothing about erasure" in card
    assert not re.search(r"certif|delet|complian|license", card, re.IGNORECASE)


@pytest.mark.parametrize("timm", [True, False])
def test_the_front_matter_and_the_loading_follow_the_kind(timm: bool) -> None:
    card = model_card(report(), {"architecture": "resnet18"} if timm else {})
    head = card.split("---")[1]
    assert ("library_name: timm" in head) == timm
    assert ('timm.create_model("local-dir:PATH", pretrained=True)' in card) == timm
    assert ('load_model("PATH")' in card) != timm


def test_names_from_outside_cannot_break_the_page() -> None:
    odd = report()
    odd["after"]["landings"] = [{"name": "a|b\n# c <script>", "share": 1.0}]
    odd["data"]["spec"] = "folder:x|y"
    card = model_card(odd)
    assert "a\\|b \\# c \\<script\\> 100.0%" in card
    assert "folder:x\\|y" in card
    assert card.endswith("\n")
    assert "\n\n\n" not in card


def test_a_report_with_little_in_it_is_a_card_too() -> None:
    short = report()
    for key in ("gates", "notes", "explanation"):
        del short[key]
    del short["after"]["landings"]
    short["target"] = "accuracy"
    card = model_card(short)
    assert "**Verdict: suppressed, unverified.**\n" in card
    assert "now predicted as" not in card
