"""Repairing and hardening end to end, on the demo's network, from Python and the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from grouped_cases import MODEL, manifest
from modeledit.cli.main import main

import modeledit
from modeledit import demo
from modeledit.attacks.pgd import Pgd
from modeledit.checkpoint import verify
from modeledit.data import load_data
from modeledit.errors import DataError, ModelEditError
from modeledit.eval.aspects import Aspects
from modeledit.eval.gates import Limits
from modeledit.judging import Baseline
from modeledit.objectives.hardening import on_the_way
from modeledit.pipeline import evaluate
from modeledit.plugins import create
from modeledit.runtime import Runtime
from modeledit.targets import Accuracy, GroupRecall
from modeledit.toys import everything

ATTACK = Pgd(eps=32 / 255, steps=3, targeted=True)
FEW = Aspects(images=60, queries=0)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return manifest(tmp_path_factory.mktemp("grouped"), limit=350)


@pytest.fixture(scope="module")
def grouped(place):
    loaded = demo.load(20)[0]
    return Baseline(loaded, load_data(f"csv:{place}", loaded.preprocessing, num_classes=10))


@pytest.fixture(scope="module")
def plain():
    return Baseline(*demo.load(150))


@pytest.fixture(scope="module")
def repaired(grouped):
    before = everything(grouped.loaded.module)
    scorer = create("scorers", "stepwise-cells", {"rounds": 6})
    result = modeledit.repair_fairness(
        grouped.loaded, grouped.data, positive=7, scorer=scorer, max_drop=0.02, baseline=grouped
    )
    assert everything(grouped.loaded.module) == before
    return result


@pytest.fixture(scope="module")
def hardened(plain):
    before = everything(plain.loaded.module)
    scorer = create("scorers", "stepwise-peps", {"rounds": 16})
    result = modeledit.harden(
        plain.loaded, plain.data, ATTACK, scorer=scorer, max_drop=0.1, aspects=FEW, baseline=plain
    )
    assert everything(plain.loaded.module) == before
    return result


def test_a_repair_shows_groups_before_and_after_and_the_frontier(repaired):
    report = repaired.report
    assert (report.task, report.target) == ("repair", "group:worst")
    names = [group.name for group in report.before.groups]
    assert names == [g.name for g in report.after.groups] == [g.name for g in report.changes.groups]
    for old, new, drop in zip(
        report.before.groups, report.after.groups, report.changes.groups, strict=True
    ):
        assert old.recall - new.recall == pytest.approx(drop.drop, abs=1e-12)
        assert drop.ci95[0] <= drop.drop <= drop.ci95[1]
    first, *others = report.search
    assert first.strength == 0  # doing nothing is a trial too
    assert others
    chosen = next(t for t in report.search if t.chosen)
    assert chosen.feasible
    assert chosen.value == max(t.value for t in report.search if t.feasible)
    assert [g.name for g in report.gates][:1] == ["error of the worst group"]
    assert "accuracy drop" in [g.name for g in report.gates]


def test_a_repair_brings_the_groups_closer_on_validation(repaired):
    first, chosen = repaired.report.search[0], next(t for t in repaired.report.search if t.chosen)
    assert chosen.value > first.value


def test_what_was_judged_is_what_is_written(repaired, grouped, tmp_path):
    out = repaired.save(tmp_path / "out", force=True)
    assert all(check.passed for check in verify(out))
    again = modeledit.load_model(out)
    measured = evaluate(again, grouped.data, aspects=Aspects(positive=7))
    assert measured.before == repaired.report.after
    card = (out / "README.md").read_text()
    assert "noisy" in card
    assert "worst group" in card
    assert json.loads((out / "report.json").read_text())["changes"]["groups"][0]["n"] == 175


def test_equalized_odds_are_scored_inside_the_groups(grouped):
    from modeledit.eval.gates import Limits
    from modeledit.objectives.repairing import Repairing
    from modeledit.runtime import Runtime

    odds = Repairing(Limits(), Aspects(positive=7), "equalized-odds")
    odds.check(grouped.data)
    split, _ = odds.scored(grouped, Runtime())
    assert sorted(set(split.groups.tolist())) == [
        "noisy, other", "noisy, positive", "plain, other", "plain, positive",
    ]  # fmt: skip
    labels = grouped.data.train.labels
    assert (np.char.endswith(split.groups, "positive") == (labels == 7)).all()


def test_groups_of_one_label_have_no_equalized_odds(place):
    loaded = demo.load(20)[0]
    data = load_data(f"csv:{place}", loaded.preprocessing, num_classes=10, group_column=("seven",))
    with pytest.raises(DataError, match=r"label 7 only, or none \(no, yes\).*--group-column group"):
        modeledit.repair_fairness(loaded, data, "equalized-odds", positive=7)


def test_hardening_weakens_the_replay(hardened):
    report = hardened.report
    before, after = report.before.attack, report.after.attack
    assert report.target == "attack"
    assert before.replay_success_rate == before.success_rate
    assert after.replay_success_rate < before.replay_success_rate - 0.2
    assert after.success_rate >= after.replay_success_rate
    assert report.search[0].success == pytest.approx(1.0, abs=0.2)
    assert report.verdict == "replay weakened"
    assert "robust" not in report.verdict + report.explanation
    assert all(gate.passed for gate in report.gates)
    assert "masked_gradients" not in report.to_dict()["after"]["attack"]


def test_a_hardened_checkpoint_has_its_card(hardened, tmp_path):
    out = hardened.save(tmp_path / "out")
    assert all(check.passed for check in verify(out))
    card = (out / "README.md").read_text()
    assert "made anew" in card
    assert "an attacker who has these weights" in card


def test_images_on_the_way_to_the_attacked_ones(plain):
    made = plain.crafted(Aspects(attack=ATTACK, images=10), plain.data.train, Runtime())
    ways = on_the_way(made, 4).unflatten(0, (10, 4))
    for step in range(4):
        want = made.clean + (step + 1) / 4 * (made.changed - made.clean)
        torch.testing.assert_close(ways[:, step], want)
    assert torch.equal(on_the_way(made, 1), made.changed)


def test_hardening_scores_on_the_way(plain):
    scorer = create("scorers", "stepwise-peps", {"rounds": 2, "along": 3, "deepest": 2.0})
    result = modeledit.harden(
        plain.loaded, plain.data, ATTACK, scorer=scorer, strength=20, aspects=FEW, baseline=plain
    )
    whole = create("scorers", "stepwise-peps", {"rounds": 2})
    other = modeledit.harden(
        plain.loaded, plain.data, ATTACK, scorer=whole, strength=20, aspects=FEW, baseline=plain
    )
    assert result.scores.header["examples"] == 3 * other.scores.header["examples"]


def test_units_weighed_against_accuracy(plain):
    scorer = create("scorers", "gate-ig", {"images": 40, "steps": 1})
    result = modeledit.harden(
        plain.loaded, plain.data, ATTACK, keep=Accuracy(), scorer=scorer, editor="mean-ablate",
        strength=2, aspects=FEW, baseline=plain,
    )  # fmt: skip
    assert result.scores.header["keep"] == "accuracy"
    assert result.report.edit.changed_units == 2
    with pytest.raises(ModelEditError, match="gives no signed contributions"):
        modeledit.harden(
            plain.loaded, plain.data, ATTACK, keep=Accuracy(), aspects=FEW, baseline=plain,
            scorer=create("scorers", "stepwise-peps", {"rounds": 1}),
        )  # fmt: skip


def test_an_attack_without_any_success_is_refused(plain):
    with pytest.raises(DataError, match="pgd succeeds on none of 60 training images"):
        modeledit.harden(plain.loaded, plain.data, Pgd(eps=0), aspects=FEW, baseline=plain)


def run(args, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    code = main(args)
    return code, *capsys.readouterr()


SMALL = ["--scorer", "stepwise-peps", "--scorer-arg", "rounds=3", "--queries", "0"]
SMALL += ["--attack-images", "30"]
HARDEN = ["harden", "--demo", "--limit", "60", "--eps", "32/255", "--steps", "2", *SMALL]


def test_harden_from_the_command_line(tmp_path, monkeypatch, capsys):
    code, out, err = run([*HARDEN, "--targeted", "-v"], tmp_path, monkeypatch, capsys)
    assert err == ""
    assert max(map(len, out.splitlines())) <= 80
    for part in ("success of images made anew", "strength tried", "accuracy drop", "verdict: "):
        assert part in out
    assert (tmp_path / "modeledit-out").exists() == (code == 0)


def test_repair_from_the_command_line(place, tmp_path, monkeypatch, capsys):
    args = ["repair", *MODEL, "--data", f"csv:{place}", "--positive", "7", "--scorer-arg"]
    args += ["rounds=2", "--force", "-v", "--max-drop", "0.02"]
    code, out, err = run(args, tmp_path, monkeypatch, capsys)
    assert (err, code in (0, 1)) == ("", True)
    assert max(map(len, out.splitlines())) <= 80
    for part in ("noisy", "most harmed", "worst group recall", "equalized odds", "verdict: "):
        assert part in out
    report = json.loads((tmp_path / "modeledit-out" / "report.json").read_text())
    shown = [
        f"{100 * report[when]['groups'][0][rate]:.1f} %"
        for rate in ("true_positive_rate", "false_positive_rate")
        for when in ("before", "after")
    ]
    assert re.findall(r"[\d.]+ %", out.partition("TPR before")[2].splitlines()[1]) == shown


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["repair", "--demo"], ["the data has none", "--group-column"]),
        (["repair", "--demo", "--metric", "odds"], ["--metric", "worst-group"]),
        (["repair", "--demo", "--max-group-drop", "x"], ["0..1"]),
        (["harden", "--demo", "--attack", "none"], ["no attack is called 'none'"]),
        ([*HARDEN, "--hold-out", "1"], ["a share of 1 of", "leaves one side empty"]),
        ([*HARDEN, "--eps", "0"], ["succeeds on none of 30", "--eps"]),
        ([*HARDEN, "--eps", "3"], ["beyond the pixel range"]),
        ([*HARDEN, "--keep", "dogs"], ["'dogs' is not known", "group:worst"]),
        ([*HARDEN, "--keep", "attack"], ["--keep attack is what is edited"]),
        ([*HARDEN, "--keep", "dogs", "--dry-run"], ["'dogs' is not known"]),
        ([*HARDEN, "--positive", "3"], ["--positive goes with groups", "--groups"]),
    ],
)
def test_refused(args, parts, tmp_path, monkeypatch, capsys):
    code, out, err = run(args, tmp_path, monkeypatch, capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(part in err for part in parts), err
    assert list(tmp_path.iterdir()) == []


def test_dry_runs_write_nothing(tmp_path, monkeypatch, capsys):
    code, out, _ = run([*HARDEN, "--dry-run"], tmp_path, monkeypatch, capsys)
    assert code == 0
    assert "dry run: nothing was changed" in out
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_counts_the_scoring_of_what_is_kept(tmp_path, monkeypatch, capsys):
    args = ["unlearn", "--demo", "--limit", "200", "--class", "3", "--scorer", "leave-one-out"]
    args += ["--editor", "mean-ablate", "--dry-run", "--json"]
    found = []
    for more in ([], ["--keep", "accuracy"], ["--keep", "class:3"]):
        code, out, err = run([*args, *more], tmp_path, monkeypatch, capsys)
        found.append(json.loads(out) if code == 0 else err)
    plain, kept, refused = found
    # The means, then all 200 images, which show accuracy, whole and without each unit.
    more = kept["passes"]["score"] - plain["passes"]["score"]
    assert more == 200 + 200 * (1 + plain["units"])
    assert "--keep class:3 is what is edited" in refused


UNLEARN = ["unlearn", "--class", "3", "--scorer", "magnitude", "--strength", "0.001", "--json"]


def test_unlearning_can_measure_and_gate_on_groups_and_attacks(
    place, tmp_path, monkeypatch, capsys
):
    args = [*UNLEARN, *MODEL, "--data", f"csv:{place}", "--measure", "groups,attack"]
    args += ["--positive", "7", "--steps", "2", "--attack-images", "20", "--queries", "0"]
    args += ["--max-group-drop", "0.5", "--max-attack-success", "0", "--eps", "32/255"]
    code, out, _ = run(args, tmp_path, monkeypatch, capsys)
    report = json.loads(out)
    assert code == 1
    assert [gate["name"].partition(" of ")[0] for gate in report["gates"]] == [
        "forgotten recall", "retain accuracy drop", "sure recall drop", "replayed attack success",
    ]  # fmt: skip
    assert report["after"]["attack"]["n"] == 20
    assert len(report["changes"]["groups"]) == 2
    assert report["after"]["forget"]["n"] > 0
    counted = sum(row["n"] for row in report["after"]["groups"])
    assert counted == report["after"]["retain"]["n"]  # what is forgotten harms no group


def test_every_editing_verb_gates_on_groups_and_attacks(place, tmp_path, monkeypatch, capsys):
    data = [*MODEL, "--data", f"csv:{place}", "--positive", "7", "--json"]
    attack = ["--steps", "2", "--attack-images", "20", "--queries", "0", "--eps", "32/255"]
    gates = ["--max-group-drop", "0.5", "--max-attack-success", "0"]
    score = ["score", *MODEL, "--data", f"csv:{place}", "--target", "class:3", "-o", "s"]
    assert run([*score, "--scorer", "magnitude"], tmp_path, monkeypatch, capsys)[0] == 0
    for verb in (
        ["edit", "--scores", "s", "--strength", "0.001", "--measure", "groups,attack"],
        ["repair", "--scorer-arg", "rounds=2", "--attack", "pgd"],
        ["harden", "--scorer", "stepwise-peps", "--scorer-arg", "rounds=2", "--groups"],
    ):
        code, out, _ = run([*verb, *data, *attack, *gates], tmp_path, monkeypatch, capsys)
        named = {gate["name"].partition(" of ")[0] for gate in json.loads(out)["gates"]}
        assert code == 1
        assert {"sure recall drop", "replayed attack success"} <= named, verb


def test_what_is_forgotten_is_no_success_of_an_attack(plain):
    """Neither on the validation images, where the strength is chosen, nor on the test images."""
    aspects = Aspects(attack=Pgd(eps=2 / 255, steps=1), images=150, queries=0)
    result = modeledit.unlearn(
        plain.loaded, plain.data, 3, aspects=aspects, limits=Limits(max_attack_success=0.1),
        max_retain_drop=0.1, scorer=create("scorers", "stepwise-peps", {"rounds": 12}),
        baseline=plain,
    )  # fmt: skip
    assert any(trial.feasible and trial.forget < 0.05 for trial in result.report.search)


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_what_is_kept_is_sampled_beside_the_target(resume, tmp_path, monkeypatch, capsys):
    args = ["score", "--demo", "--limit", "40", "--target", "class:3", "--keep", "accuracy"]
    args += ["--scorer", "neuron-shapley", "--budget", "30", "--scorer-arg", "layers=stem*"]
    args += ["--scorer-arg", "prior=False", "-o", "s", *resume]
    code, _, err = run(args, tmp_path, monkeypatch, capsys)
    assert (code, "error" in err) == (0, False)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_what_cannot_be_kept_is_refused_before_anything_is_scored(plain, monkeypatch):
    monkeypatch.setattr("modeledit.scorers.leave_one_out._losses", None)  # would fail if asked
    for name, keep, said in (
        ("leave-one-out", GroupRecall("worst"), "needs groups, and the data has none"),
        ("gate-ig", GroupRecall("worst"), "needs groups, and the data has none"),
    ):
        with pytest.raises(ModelEditError, match=said):
            modeledit.unlearn(
                plain.loaded, plain.data, 3, keep=keep, scorer=create("scorers", name, {}),
                editor="mean-ablate", strength=1, baseline=plain,
            )  # fmt: skip


def test_a_group_is_kept_by_shapley_values(grouped):
    scorer = create(
        "scorers", "neuron-shapley", {"evaluations": 20, "prior": False, "layers": "stem*"}
    )
    result = modeledit.unlearn(
        grouped.loaded, grouped.data, 3, keep=GroupRecall("worst"), scorer=scorer,
        editor="mean-ablate", strength=1, baseline=grouped,
    )  # fmt: skip
    assert result.scores.header["keep"] == "group:worst"


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--measure", "groups,dogs"], ["'dogs' cannot be measured", "groups, attack"]),
        (["--measure", "groups"], ["the data has none", "--group-column"]),
        (["--max-group-drop", "0.1"], ["--max-group-drop needs groups", "--measure groups"]),
        (["--max-attack-success", "0.1"], ["--max-attack-success needs an attack"]),
        (["--eps", "0.1"], ["--eps goes with an attack"]),
        (["--positive", "3"], ["--positive goes with groups", "--measure groups"]),
        (["--keep", "accuracy"], ["magnitude gives no signed contributions"]),
    ],
)
def test_unlearning_refuses_what_is_not_measured(args, parts, tmp_path, monkeypatch, capsys):
    code, out, err = run(
        [*UNLEARN, "--demo", "--limit", "60", *args], tmp_path, monkeypatch, capsys
    )
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert all(part in err for part in parts), err


def test_a_class_weighed_against_accuracy(plain):
    scorer = create("scorers", "leave-one-out", {"images": 30, "layers": "stem*"})
    found = modeledit.unlearn(
        plain.loaded, plain.data, 3, keep=Accuracy(), scorer=scorer, editor="mean-ablate",
        strength=1, baseline=plain,
    )  # fmt: skip
    assert found.scores.header["keep"] == "accuracy"
