"""Scores made before: the jobs of groups and of attacks by them, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from grouped_cases import manifest
from modeledit.cli.main import main

import modeledit
from modeledit import demo, pipeline, reuse
from modeledit.attacks.fgsm import Fgsm
from modeledit.attacks.pgd import Pgd
from modeledit.checkpoint import inspect, load_scores
from modeledit.data import load_data
from modeledit.errors import ModelEditError
from modeledit.eval.aspects import Aspects
from modeledit.judging import Baseline
from modeledit.merging import Part, merge
from modeledit.plugins import create
from modeledit.runtime import Runtime
from modeledit.targets import Accuracy, AttackSuccess, GroupRecall

ATTACK = Pgd(eps=32 / 255, steps=2, targeted=True)
FEW = Aspects(attack=ATTACK, images=30, queries=0)
GATES = create("scorers", "gate-ig", {"images": 20, "steps": 1})
UNITS = {"editor": "mean-ablate", "strength": 2}


@pytest.fixture(scope="module")
def plain():
    return Baseline(*demo.load(60))


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory):
    place = manifest(tmp_path_factory.mktemp("grouped"), limit=80)
    loaded = demo.load(20)[0]
    return Baseline(loaded, load_data(f"csv:{place}", loaded.preprocessing, num_classes=10))


@pytest.fixture(scope="module")
def attacked(plain):
    given = (plain.loaded, plain.data, AttackSuccess(), GATES)
    return pipeline.score(*given, keep=Accuracy(), aspects=FEW)


@pytest.fixture(scope="module")
def of_groups(grouped):
    return pipeline.score(grouped.loaded, grouped.data, GroupRecall(), GATES)


def harden(base, scores, **more):
    return modeledit.harden(
        base.loaded, base.data, baseline=base, scores=scores, **{"aspects": FEW, **UNITS, **more}
    )


def repair(base, scores, **more):
    return modeledit.repair_fairness(
        base.loaded, base.data, positive=7, baseline=base, scores=scores, **{**UNITS, **more}
    )


def test_an_attack_is_hardened_against_as_if_scored_at_once(plain, attacked, tmp_path):
    few = Aspects(images=30, queries=0)
    found = harden(plain, attacked, aspects=few)  # the attack is the one that the scores name
    at_once = harden(plain, None, scorer=GATES, keep=Accuracy(), attack=ATTACK, aspects=few)
    assert found.plan.digest() == at_once.plan.digest()
    assert found.report.before == at_once.report.before
    assert found.report.after == at_once.report.after
    cost = found.report.cost.score
    assert (cost.seconds, cost.passes) == (0, attacked.header["passes"])
    assert at_once.report.cost.score.seconds > 0
    out = found.save(tmp_path / "out", force=True)
    said = inspect(out).provenance["recipe"]
    assert (said["scorer"], said["target"], said["scores"]["keep"]) == (
        "gate-ig",
        "attack",
        "accuracy",
    )
    assert said["scores"]["attack"]["name"] == "pgd"
    assert said["scores"]["attack"]["options"]["eps"] == ATTACK.eps


def test_groups_are_repaired_as_if_scored_at_once(grouped, of_groups):
    found = repair(grouped, of_groups)
    at_once = repair(grouped, None, scorer=GATES, over="mean")
    assert found.report.target == at_once.report.target == "group"
    assert found.plan.digest() == at_once.plan.digest()
    assert found.report.changes == at_once.report.changes


def test_merged_scores_repair_and_stay_in_the_recipe(grouped, of_groups):
    other = pipeline.score(grouped.loaded, grouped.data, GroupRecall(), GATES, Runtime(seed=1))
    merged = merge([Part("a", of_groups), Part("b", other)], [1.0, 1.0])
    found = repair(grouped, merged)
    assert found.report.edit.changed_units == 2
    assert [part["weight"] for part in found.recipe()["scores"]["parts"]] == [0.5, 0.5]


def test_scores_of_different_attacks_do_not_add_up(attacked):
    options = {**attacked.header["attack"]["options"], "eps": 0.5}
    header = {**attacked.header, "attack": {"name": "pgd", "options": options}}
    with pytest.raises(ModelEditError, match=r"b has attack .*0.5.* they must be the same"):
        merge([Part("a", attacked), Part("b", replace(attacked, header=header))], [1.0, 1.0])


@pytest.mark.parametrize(
    ("judged", "told"),
    [
        (ATTACK, None),
        (Pgd(eps=0.25, steps=2, targeted=True), "another pgd attack: eps 0.1255 (judged: 0.25)"),
        (Fgsm(eps=32 / 255, targeted=True), "made for pgd, and fgsm is judged"),
    ],
)
def test_another_attack_is_told(judged, told, attacked):
    notes = reuse.attack_note(attacked, judged)
    assert notes == () if told is None else notes[0].endswith(told)


def test_the_report_says_that_the_attack_differs(plain, attacked):
    found = harden(plain, attacked, attack=Pgd(eps=0.2, steps=1, targeted=True))
    assert found.report.before.attack.options["eps"] == 0.2
    assert any("steps 2 (judged: 1)" in note for note in found.report.notes)
    unnamed = {k: v for k, v in attacked.header.items() if k != "attack"}
    assert reuse.attack_of(replace(attacked, header=unnamed)) is None
    assert "do not say which" in reuse.attack_note(replace(attacked, header=unnamed), ATTACK)[0]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"scorer": "gate-ig"}, "need no scorer"),
        ({"keep": Accuracy()}, "need no keep"),
        ({"editor": "zero", "header": {"model_digest": "x"}}, "for another model"),
        ({"header": {"data_digest": "x"}}, "on other data"),
        ({"header": {"target": "class:3"}}, "use `modeledit edit --scores FILE`"),
        ({"header": {"target": "accuracy"}}, "score such a target"),
        ({"granularity": "weight"}, "mean-ablate edits by filter"),
    ],
)
@pytest.mark.parametrize("job", ["repair", "harden"])
def test_refused(job, more, told, plain, attacked, grouped, of_groups):
    base, scores = (plain, attacked) if job == "harden" else (grouped, of_groups)
    header = {**scores.header, **more.get("header", {})}
    granularity = more.get("granularity", scores.granularity)
    given = {key: value for key, value in more.items() if key not in ("header", "granularity")}
    made = replace(scores, header=header, granularity=granularity)
    with pytest.raises(ModelEditError, match=told):
        {"repair": repair, "harden": harden}[job](base, made, **given)


def test_what_groups_are_over_is_said_by_the_scores(grouped, of_groups):
    with pytest.raises(ModelEditError, match="need no over"):
        repair(grouped, of_groups, over="worst")


def test_an_attack_target_needs_an_attack(plain):
    with pytest.raises(ModelEditError, match="no attack was named"):
        pipeline.score(plain.loaded, plain.data, AttackSuccess(), "magnitude")


DEMO = ["--demo", "--limit", "60", "--quiet"]
CRAFT = ["--eps", "32/255", "--steps", "2", "--targeted", "--attack-images", "30"]
GAME = ["--scorer", "gate-ig", "--scorer-arg", "images=20", "--scorer-arg", "steps=1"]
SCORE = ["score", "--target", "attack", *DEMO, *GAME, "-o", "a b.safetensors"]
HARDEN = ["harden", *DEMO, "--scores", "a b.safetensors", "--attack-images", "30"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert main([*SCORE, *CRAFT]) == 0
        assert main(["score", "--target", "class:3", *SCORE[3:-1], "c"]) == 0
    return place


def test_the_command_line_judges_the_attack_that_was_scored(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert load_scores(Path("a b.safetensors")).header["attack"]["options"]["steps"] == 2
    fixed = ["--editor", "mean-ablate", "--strength", "1", "--queries", "0", "-o", "hardened"]
    capsys.readouterr()
    main([*HARDEN, *fixed, "--json", "--force"])
    report = json.loads(capsys.readouterr().out)
    options = report["before"]["attack"]["options"]
    assert (options["steps"], options["targeted"]) == (2, True)
    assert not any("scores were made for" in note for note in report.get("notes", ()))
    main([*HARDEN, *fixed, "--force", "--steps", "1"])
    out = capsys.readouterr().out
    assert "made before" in out
    assert "(judged: 1)" in out
    assert main([*HARDEN, "--editor", "mean-ablate", "--dry-run"]) == 0
    assert "passes    score 0, " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["edit", *HARDEN[1:-2]], ["modeledit harden --scores 'a b.safetensors'"]),
        (["repair", *HARDEN[1:-2]], ["modeledit harden --scores 'a b.safetensors'"]),
        (["harden", *DEMO, "--scores", "c"], ["c is for class:3", "modeledit edit --scores c`"]),
        ([*HARDEN, "--scorer", "gate-ig"], ["--scorer is for scoring"]),
        ([*HARDEN, "--save-scores", "d"], ["--save-scores is for scoring"]),
        (["repair", *HARDEN[1:-2], "--target", "group"], ["--target is for scoring"]),
        ([*HARDEN, "--seed", "1"], ["on another cut", "--hold-out"]),
        ([*HARDEN, "--seed", "1", "--dry-run"], ["on another cut", "--hold-out"]),
        ([*SCORE[:-1], "d", "--target", "class:3", "--attack", "pgd"], ["--target attack"]),
        (
            [*SCORE[:-1], "d", "--target", "class:3", "--eps", "0.1"],
            ["--eps goes with --target attack"],
        ),
    ],
)
def test_the_command_line_refuses(args, parts, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    code = main(args)
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(part in err for part in parts), err
