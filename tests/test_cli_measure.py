"""`modeledit evaluate` with groups and attacks: its blocks, its tables, what it refuses."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from grouped_cases import MODEL, manifest
from modeledit.cli.main import main
from safetensors.torch import save_file
from sklearn.metrics import accuracy_score, recall_score

from modeledit.eval.predictions import predict
from modeledit.models import load_model
from modeledit.pipeline import evaluate
from modeledit.runtime import Runtime

EVALUATE = ["evaluate", *MODEL]
PGD = ["--attack", "pgd", "--eps", "32/255", "--steps", "3", "--queries", "0"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return manifest(tmp_path_factory.mktemp("grouped"), limit=160)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def report(args: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    assert main([*args, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return json.loads(out)


def refused(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def answers(data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, predictions and groups of the test images, by another way than `evaluate`."""
    from modeledit.data import load_data

    loaded = load_model(
        "timm:test_byobnet", MODEL[7], args={"num_classes": 10, "in_chans": 1},
        input_size=32, mean=(0.305,), std=(0.377,),
    )  # fmt: skip
    images = load_data(f"csv:{data}", loaded.preprocessing, num_classes=10)
    found = predict(loaded.module, images.test, Runtime(), "test")
    with data.open() as file:
        groups = [row["group"] for row in csv.DictReader(file) if row["split"] == "test"]
    return found.labels, found.predicted, np.array(groups)


def test_groups_are_those_of_the_predictions(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [*EVALUATE, "--data", f"csv:{data}", "--groups", "--positive", "7"]
    before = report(args, capsys)["before"]
    labels, predicted, groups = answers(data)
    rows = {row["name"]: row for row in before["groups"]}
    assert sorted(rows) == ["noisy", "plain"]
    hit, false = [], []
    for name, row in rows.items():
        true, told = labels[groups == name], predicted[groups == name]
        assert row["recall"] == pytest.approx(accuracy_score(true, told), abs=1e-12)
        assert row["ci95"][0] <= row["recall"] <= row["ci95"][1]
        assert row["n"] == 80
        hit.append(recall_score(true == 7, told == 7))
        false.append(1 - recall_score(true != 7, told != 7))
    found = before["fairness"]
    assert rows["noisy"]["recall"] < rows["plain"]["recall"]
    assert found["accuracy_score_group_min"] == rows["noisy"]["recall"]
    odds = max(abs(hit[0] - hit[1]), abs(false[0] - false[1]))
    assert found["equalized_odds_difference"] == pytest.approx(odds, abs=1e-12)
    assert found["positive"] == 7
    assert "attack" not in before
    assert "missing" not in found


def test_missing_rates_are_named_with_the_column_to_use(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = [*EVALUATE, "--data", f"csv:{data}", "--groups", "--group-column", "seven"]
    args += ["--positive", "7"]
    found = report(args, capsys)
    assert found["before"]["fairness"]["missing"]["equalized_odds_difference"] == ["no", "yes"]
    assert "equalized_odds_difference" not in found["before"]["fairness"]
    (note,) = (n for n in found["notes"] if "true_positive_rate" in n)
    assert "no: no image of the positive label 7" in note
    assert note.endswith("use column group")  # of the others, half and print do not qualify
    assert main(args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert next(line for line in lines if line.startswith("equalized")).split()[3:] == ["-", "-"]


def test_a_group_of_one_has_no_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = manifest(tmp_path / "one", limit=40)
    lines = path.read_text().splitlines()
    last = next(k for k, line in enumerate(lines) if ",test," in line)
    lines[last] = lines[last].replace(",plain,", ",alone,")
    path.write_text("\n".join(lines))
    found = report([*EVALUATE, "--data", f"csv:{path}", "--groups", "--positive", "3"], capsys)
    alone = next(row for row in found["before"]["groups"] if row["name"] == "alone")
    assert alone["n"] == 1
    assert "ci95" not in alone
    assert found["before"]["fairness"]["missing"]["ci95"] == ["alone"]


def test_an_attack_that_may_change_nothing_succeeds_nowhere(
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = ["evaluate", "--demo", "--limit", "60", "--attack", "pgd", "--eps", "0"]
    found = report(args, capsys)["before"]
    attack = found["attack"]
    assert (attack["success_rate"], attack["replay_success_rate"]) == (0, 0)
    assert attack["clean_accuracy"] == attack["robust_accuracy"] == found["all"]["accuracy"]
    assert attack["ci95"]["success_rate"][1] > 0
    assert attack["n"] == 60
    assert attack["masked_gradients"]["attacked"] == attack["attacked"]


def test_classes_to_forget_are_not_attacked(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["evaluate", "--demo", "--limit", "60", "--forget", "3", "--attack", "fgsm"]
    found = report([*args, "--eps", "0", "--queries", "0"], capsys)["before"]
    assert found["attack"]["n"] == found["retain"]["n"] < found["all"]["n"] == 60
    assert found["attack"]["clean_accuracy"] == found["retain"]["accuracy"]


def test_a_larger_eps_succeeds_more_and_the_table_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = ["evaluate", "--demo", "--limit", "100", *PGD, "--attack-images", "50"]
    args += ["--targeted", "--step-size", "8/255", "--attack-arg", "random_start=False"]
    attack = report(args, capsys)["before"]["attack"]
    assert attack["n"] == 50
    assert attack["options"] == {
        "eps": 32 / 255, "norm": "linf", "targeted": True, "steps": 3, "step": 8 / 255,
        "random_start": False, "restarts": 1,
    }  # fmt: skip
    small = report([*args, "--eps", "4/255"], capsys)["before"]["attack"]
    assert small["success_rate"] < attack["success_rate"]
    assert "masked_gradients" not in attack
    assert main(args) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("pgd, linf 32/255, targeted") for line in lines)
    (line,) = (line for line in lines if line.startswith("success rate, on this model"))
    assert f"{100 * attack['success_rate']:.1f} %" in line
    assert line.endswith(str(attack["attacked"]))


def test_images_made_on_another_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["unlearn", "--demo", "--class", "3", "--scorer", "random", "--strength", "0.01"]
    assert main([*args, "--force", "-o", str(tmp_path / "other")]) == 1
    capsys.readouterr()
    args = ["evaluate", "--demo", "--limit", "60", *PGD]
    own = report([*args, "--transfer", str(tmp_path / "other")], capsys)["before"]["attack"]
    assert own["transfer_from"].endswith("other")
    assert 0 < own["transfer_success_rate"] <= own["success_rate"]
    assert "transfer_success_rate" in own["ci95"]


def test_images_made_with_other_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = load_model(
        "timm:test_byobnet", MODEL[7], args={"num_classes": 10, "in_chans": 1}, input_size=32
    )
    state = network.module.state_dict()
    state["stem.conv.weight"] = state["stem.conv.weight"].flip(0)
    save_file(state, tmp_path / "other.safetensors")
    args = ["evaluate", "--demo", "--limit", "60", *PGD]
    own = report([*args, "--transfer", "other.safetensors"], capsys)["before"]["attack"]
    assert own["transfer_from"] == "other.safetensors"
    assert own["transfer_success_rate"] < own["success_rate"]
    line = refused([*args, "--transfer", "timm:test_byobnet"], capsys)
    assert "timm:test_byobnet" in line


def test_images_of_other_classes_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(load_model("timm:test_byobnet", MODEL[7], args={"in_chans": 1}), num_classes=12)
    monkeypatch.setattr("modeledit.models.load_model", lambda spec: other)  # noqa: ARG005
    line = refused(["evaluate", "--demo", "--limit", "20", *PGD, "--transfer", "twelve"], capsys)
    assert "--transfer twelve has 12 classes, the model 10" in line


def test_the_worst_of_a_handful_is_told(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with data.open() as file:
        rows = list(csv.DictReader(file))
    one = next(row for row in rows if row["split"] == "test")
    one["group"] = "alone"
    one["label"] = str((int(one["label"]) + 1) % 10)  # so that it is wrong
    with Path("alone.csv").open("w") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "path": data.parent / row["path"]} for row in rows)
    found = report([*EVALUATE, "--data", "csv:alone.csv", "--groups"], capsys)
    assert any(
        "the worst group, alone, is a handful of images (1)" in note for note in found["notes"]
    )


def test_the_same_seed_gives_the_same_report() -> None:
    from modeledit import demo
    from modeledit.attacks.pgd import Pgd
    from modeledit.eval.aspects import Aspects

    found = [
        evaluate(*demo.load(40), aspects=Aspects(attack=Pgd(steps=2), queries=20)).before
        for _ in range(2)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--groups"], ["the data has none", "--group-column"]),
        (["--positive", "3"], ["--positive goes with groups", "--groups"]),
        (["--attack", "pgg"], ["'pgg'", "did you mean pgd?"]),
        (["--eps", "8/255"], ["--eps goes with an attack", "--attack"]),
        (["--attack-images", "5"], ["--attack-images goes with an attack"]),
        (["--step-size", ".1"], ["--step-size goes with an attack"]),
        (["--transfer", "x"], ["--transfer goes with an attack"]),
        (["--attack", "pgd", "--eps", "2"], ["eps=2 is beyond the pixel range", "at most 1"]),
        (["--attack", "pgd", "--eps", "-1"], ["'-1' is not a size", "8/255"]),
        (["--attack", "pgd", "--eps", "8/0"], ["'8/0'"]),
        (["--attack", "pgd", "--eps", "x"], ["'x'"]),
        (["--attack", "fgsm", "--steps", "3"], ["fgsm has no option 'steps'", "one of eps, norm"]),
        (["--attack", "pgd", "--attack-arg", "steps='x'"], ["steps='x' is not allowed"]),
        (["--attack", "pgd", "--attack-images", "0"], ["'0' is not allowed"]),
        (["--attack", "pgd", "--norm", "l2"], ["--norm l2 measures all pixels", "--eps"]),
        (["--attack", "square", "--queries", "5"], ["--attack-arg queries=N"]),
        (["--groups", "--forget", "1"], ["class 1 is forgotten", "--positive"]),
    ],
)
def test_refused(args: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["evaluate", "--demo", "--limit", "20", *args], capsys)
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["--positive", "12"], ["class 12 is out of range", "0 to 9"]),
        (["--positive", "cat"], ["class 'cat' is not known"]),
        (["--group-column", "race"], ["no race", "path, label, split, group"]),
        (["--group-column", "print"], ["all images are of group 'grey'", "two groups"]),
    ],
)
def test_bad_groups(
    args: list[str], parts: list[str], data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused([*EVALUATE, "--data", f"csv:{data}", "--groups", *args], capsys)
    assert all(part in line for part in parts), line


def test_attacks_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "attacks"]) == 0
    lines = capsys.readouterr().out.splitlines()
    named = [line.split()[0] for line in lines if not line.startswith("   ")]
    assert named == ["attacks:", "apgd", "fgsm", "pgd", "square"]


def test_every_metric_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    from modeledit.games import RANGES
    from modeledit.objectives.repairing import KEYS

    assert main(["list", "metrics", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["metrics"]) == {*RANGES, *KEYS}
