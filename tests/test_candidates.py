"""Several scorers for one job: the better one on validation is taken, and all are told."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from modeledit.cli.main import main

import modeledit
from modeledit import candidates, demo
from modeledit.attacks.pgd import Pgd
from modeledit.candidates import Attempt, named, recorded, winner
from modeledit.checkpoint import load_scores
from modeledit.defaults import ALL_LAYERS, FEWER_IMAGES
from modeledit.errors import ModelEditError
from modeledit.eval.aspects import Aspects
from modeledit.eval.gates import Limits
from modeledit.judging import Baseline
from modeledit.objectives.hardening import Hardening
from modeledit.plugins import create
from modeledit.report import AttackTrial, StageCost
from modeledit.report.card import model_card
from modeledit.scorers import Scorer
from modeledit.targets import Accuracy, AttackSuccess
from modeledit.types import EditPlan, Scores

ATTACK = Pgd(eps=32 / 255, steps=3, targeted=True)
FEW = Aspects(images=60, queries=0)
FREE = StageCost(0.0, 0)


def objective(**limits):
    return Hardening(Limits(max_drop=0.01, **limits), Aspects(attack=Pgd()))


def trial(success, drop=0.0, changed=5, feasible=True, strength=7, chosen=False):
    return AttackTrial(
        strength=strength, changed_weights=changed, images=100, feasible=feasible, chosen=chosen,
        success=success, restored=0.0, accuracy=0.9, accuracy_drop=drop, accuracy_drop_se=0.0,
    )  # fmt: skip


def attempt(name, *chosen, **more):
    """One of a single other trial, and the chosen one."""
    trials = (trial(1.0, strength=0), trial(*chosen, chosen=True, **more))
    scores = Scores("weight", {"w": torch.zeros(2)}, header={"scorer": name, "options": {"k": 1}})
    return Attempt(name, scores, EditPlan((), {}), trials, FREE, FREE)


@pytest.mark.parametrize(
    ("first", "second", "limits", "best"),
    [
        (attempt("a", 0.3), attempt("b", 0.2, 0.009), {}, "b"),  # success before accuracy
        (attempt("a", 0.2, 0.009), attempt("b", 0.3), {}, "a"),
        (attempt("a", 0.2, 0.002), attempt("b", 0.2, 0.001), {}, "b"),
        (attempt("a", 0.2, changed=4), attempt("b", 0.2, changed=5), {}, "a"),
        (attempt("a", 0.2), attempt("b", 0.2), {}, "a"),  # the first of equal ones
        (attempt("a", 0.1, feasible=False), attempt("b", 0.9), {}, "b"),
        (attempt("a", 0.5, 0.002), attempt("b", 0.4, 0.001), {"max_attack_success": 0.5}, "b"),
        (attempt("a", 0.5, 0.001), attempt("b", 0.4, 0.002), {"max_attack_success": 0.5}, "a"),
    ],
)
def test_the_objective_ranks_the_chosen_trials(first, second, limits, best):
    assert winner([first, second], objective(**limits)).name == best


def test_of_one_scorer_there_is_nothing_to_choose_or_record():
    alone = replace(attempt("a", 0.3), trials=())  # a strength that was given
    assert winner([alone], objective()) is alone
    assert list(recorded([alone], alone)) == []


def test_what_is_recorded():
    tried = [attempt("a", 0.3), attempt("b", 0.2)]
    first, second = recorded(tried, tried[1])
    assert (first.name, first.scorer_options, first.chosen) == ("a", {"k": 1}, False)
    assert first.best == trial(0.3)  # best of its own search, but not what was edited
    assert [t.success for t in first.trials] == [1.0, 0.3]
    assert (second.chosen, second.best, second.trials) == (True, trial(0.2, chosen=True), ())


def test_content_when_the_whole_wish_is_met():
    assert objective().content(trial(0.0))
    assert not objective().content(trial(0.01))
    assert not objective().content(trial(0.0, feasible=False))
    assert objective(max_attack_success=0.5).content(trial(0.5))
    assert not objective(max_attack_success=0.5).content(trial(0.51))


def test_names():
    last, every = named("auto", "harden").values()
    assert (last.name, every.name) == ("stepwise-peps", "stepwise-peps")
    assert last == create("scorers", "stepwise-peps")
    assert every == create("scorers", "stepwise-peps", {**ALL_LAYERS, **FEWER_IMAGES})
    assert named("random", "harden") == {"random": create("scorers", "random")}
    assert named(last, "repair") == {"stepwise-peps": last}
    assert named({"a": last, "b": every}, "harden") == {"a": last, "b": every}
    with pytest.raises(ModelEditError, match="no scorer is called 'auto'"):
        named("auto", "unlearn")
    with pytest.raises(ModelEditError, match="no scorer was given"):
        named({}, "harden")


@dataclass(frozen=True)
class Untouched(Scorer):
    """Must not be asked."""

    targets: ClassVar = (AttackSuccess,)

    def passes(self, shown, others, tensors):
        raise AssertionError(shown, others, tensors)

    def run(self, job):
        raise AssertionError(job)


@pytest.fixture(scope="module")
def plain():
    return Baseline(*demo.load(150))


def hardened(plain, scorer, **more):
    return modeledit.harden(
        plain.loaded, plain.data, ATTACK, scorer=scorer, max_drop=0.1, aspects=FEW, baseline=plain,
        **more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def long():
    return create("scorers", "stepwise-peps", {"rounds": 12})


@pytest.fixture(scope="module")
def short():
    return create("scorers", "stepwise-peps", {"rounds": 1})


@pytest.fixture(scope="module", params=["short", "long"])
def contest(request, plain, long, short):
    """Both orders: what came out, and the scores that were handed over."""
    names = [request.param, "long" if request.param == "short" else "short"]
    given = []
    scorers = {name: {"long": long, "short": short}[name] for name in names}
    return names, hardened(plain, scorers, on_scores=given.append), given


def test_the_better_one_is_edited_by_whichever_comes_first(contest):
    names, result, given = contest
    report = result.report
    assert [c.name for c in report.candidates] == names
    by_name = {c.name: c for c in report.candidates}
    best, other = by_name["long"], by_name["short"]
    assert (best.chosen, other.chosen) == (True, False)
    assert best.best.success < other.best.success
    assert report.edit.scorer_options["rounds"] == 12
    assert given[-1] is result.scores
    assert len(given) == (1 if names[0] == "long" else 2)
    assert best.best in report.search
    assert best.best not in other.trials
    for stage in ("score", "search"):
        total = getattr(report.cost, stage).passes
        assert total == sum(getattr(c, stage).passes for c in report.candidates)
    written = json.loads(report.to_json())
    assert [c["chosen"] for c in written["candidates"]] == [c.chosen for c in report.candidates]
    said = f"Best on the validation images of {', '.join(names)}: long. No training"
    assert said in model_card(written)


def test_the_choice_changes_nothing_about_the_edit(contest, plain, long):
    _, result, _ = contest
    alone = hardened(plain, long).report
    assert result.report.edit.digest == alone.edit.digest
    assert result.report.search == alone.search
    assert "candidates" not in alone.to_dict()


def test_nothing_more_is_tried_once_the_wish_is_met(plain, short):
    scorers = {"a": short, "b": Untouched()}
    result = hardened(plain, scorers, max_attack_success=1.0)
    assert result.report.candidates == ()
    assert any("no scores of b were tried" in note for note in result.report.notes)
    with pytest.raises(AssertionError):
        hardened(plain, scorers)


def test_what_no_candidate_can_weigh_is_refused_before_any_is_scored(plain, short):
    scorers = {"a": replace(Untouched(), granularity="filter"), "b": short}
    with pytest.raises(ModelEditError, match="stepwise-peps gives no signed contributions"):
        hardened(plain, scorers, keep=Accuracy())


def test_a_given_strength_leaves_no_choice(plain, short):
    with pytest.raises(ModelEditError, match=r"\(a, b\).*strength 3 leaves nothing to search"):
        hardened(plain, {"a": short, "b": Untouched()}, strength=3)
    assert hardened(plain, {"a": short}, strength=3).report.edit.strength == 3


HARDEN = ["harden", "--demo", "--limit", "60", "--eps", "32/255", "--steps", "2", "--queries", "0"]
HARDEN += ["--attack-images", "30", "--force"]


@pytest.fixture
def cheap(monkeypatch, tmp_path):
    """The candidates of few rounds."""
    few = {
        name: (scorer, {**options, "rounds": rounds})
        for rounds, (name, (scorer, options)) in enumerate(
            candidates.CANDIDATES["harden"].items(), start=2
        )
    }
    monkeypatch.setattr(candidates, "CANDIDATES", {"harden": few})
    monkeypatch.chdir(tmp_path)


def told(args, capsys):
    assert main([*HARDEN, *args]) in (0, 1)
    return capsys.readouterr().out


@pytest.mark.usefixtures("cheap")
def test_harden_tries_both_unless_one_is_named(capsys):
    out = told(["--report", "r.json", "--save-scores", "s.safetensors"], capsys)
    assert max(map(len, out.splitlines())) <= 80
    rows = [line for line in out.splitlines() if line.startswith(("last layers", "all layers"))]
    assert len(rows) == 2
    assert sum("<- chosen" in row for row in rows) == 1
    report = json.loads(Path("r.json").read_text())
    assert [c["name"] for c in report["candidates"]] == ["last layers", "all layers"]
    chosen = next(c for c in report["candidates"] if c["chosen"])
    assert report["edit"]["scorer_options"] == chosen["scorer_options"]
    kept = load_scores(Path("s.safetensors"))
    assert kept.header["options"] == chosen["scorer_options"]
    named_one = ["--scorer", "stepwise-peps", "--scorer-arg", "rounds=1"]
    alone = json.loads(told(["--json", *named_one], capsys))
    assert (alone["edit"]["scorer_options"]["rounds"], alone.get("candidates")) == (1, None)


@pytest.mark.usefixtures("cheap")
def test_a_dry_run_counts_both(capsys):
    both = json.loads(told(["--dry-run", "--json"], capsys))["passes"]
    apart = []
    for scorer, options in candidates.CANDIDATES["harden"].values():
        args = [
            part for pair in options.items() for part in ("--scorer-arg", f"{pair[0]}={pair[1]}")
        ]
        out = told(["--scorer", scorer, *args, "--dry-run", "--json"], capsys)
        apart.append(json.loads(out)["passes"])
    # The 30 attacked images of a split are made once, in two gradients and up to five passes.
    for stage, made in (("score", 30 * 11), ("search", 30 * 9)):
        assert both[stage] == sum(one[stage] for one in apart) - made > apart[0][stage]
    assert both["evaluate"] == apart[0]["evaluate"]


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--scorer-arg", "rounds=3"], ["auto brings its own options", "--scorer stepwise-peps"]),
        (["--granularity", "filter"], ["auto brings its own options"]),
        (["--strength", "30"], ["last layers, all layers", "strength 30", "name one --scorer"]),
        (["--budget", "50"], ["--budget is for scorers that sample, which auto does not"]),
        (["--keep", "accuracy"], ["stepwise-peps gives no signed contributions"]),
        (["--scorer", "aut"], ["no scorer is called 'aut': did you mean auto?"]),
    ],
)
def test_refused(args, parts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = main([*HARDEN, *args])
    out, err = capsys.readouterr()
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(part in err for part in parts), err


def test_other_verbs_know_no_auto(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["unlearn", "--demo", "--class", "3", "--scorer", "auto"]) == 2
    assert "no scorer is called 'auto'" in capsys.readouterr().err
