"""What --dry-run promises beside what the same run takes."""

from __future__ import annotations

import pytest

import modeledit
from modeledit import demo
from modeledit.attacks.pgd import Pgd
from modeledit.attacks.square import Square
from modeledit.editors.zero import Zero
from modeledit.estimate import estimated
from modeledit.eval.aspects import Aspects
from modeledit.plugins import create
from modeledit.runtime import Runtime
from modeledit.targets import AttackSuccess, ForgetClass

LOADED, DATA = demo.load(60)
QUICK = Pgd(eps=48 / 255, steps=3, targeted=True)
SCORER = create("scorers", "stepwise-peps", {"rounds": 4})


def within(taken, passes):
    for stage in ("score", "search", "edit", "evaluate"):
        assert getattr(taken, stage).passes <= passes[stage], stage


@pytest.mark.parametrize(
    "aspects",
    [
        Aspects(None, QUICK, 20, 0),
        Aspects(None, QUICK, 500, 5),
        Aspects(None, QUICK, 20, 0, LOADED),
    ],
    ids=["few", "checked", "transfer"],
)
def test_a_hardening_takes_no_more_than_was_said(aspects):
    said = estimated(
        LOADED, DATA, AttackSuccess(), [SCORER], "auto", Runtime(), Zero(), aspects=aspects
    )
    result = modeledit.harden(LOADED, DATA, QUICK, scorer=SCORER, aspects=aspects)
    within(result.report.cost, said.passes)
    assert said.passes["score"] < 4 * result.report.cost.score.passes
    assert said.passes["evaluate"] < 2 * result.report.cost.evaluate.passes


def test_images_on_the_way_to_attacked_ones_are_counted():
    aspects = Aspects(None, QUICK, 50, 0)
    scorers = [
        create("scorers", "stepwise-peps", {"rounds": 4, "along": along, "fraction": 1.0})
        for along in (1, 8)
    ]
    one, said = (
        estimated(LOADED, DATA, AttackSuccess(), [each], 0.001, Runtime(), aspects=aspects)
        for each in scorers
    )
    more = 7 * 50  # once through the first layers, then forward and backward in every round
    assert said.passes["score"] - one.passes["score"] == more + 3 * 4 * more
    scorer = scorers[1]
    result = modeledit.harden(
        LOADED, DATA, QUICK, scorer=scorer, aspects=aspects, strength=0.001, max_drop=1
    )
    within(result.report.cost, said.passes)


def test_an_attack_that_is_measured_is_counted():
    aspects = Aspects(None, Square(eps=0.1, queries=30), 20, 0)
    target = ForgetClass((3,))
    scorer = create("scorers", "magnitude")
    given = (LOADED, DATA, target, [scorer], 0.01, Runtime(), Zero())
    said, without = estimated(*given, aspects=aspects), estimated(*given)
    result = modeledit.unlearn(
        LOADED, DATA, 3, scorer=scorer, strength=0.01, aspects=aspects, max_retain_drop=1
    )
    within(result.report.cost, said.passes)
    assert said.passes["search"] == without.passes["search"] == 0
    assert said.passes["evaluate"] - without.passes["evaluate"] == 20 * (2 * 32 + 8)
