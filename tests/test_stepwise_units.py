"""Filters that go one by one, through unlearning, repairing and hardening from the command line."""

from __future__ import annotations

import json

import pytest
from grouped_cases import MODEL, manifest
from modeledit.cli.main import main

from modeledit.checkpoint import load_scores

FEW = {"rounds": "2", "shortlist": "3", "images": "40", "retained": "40", "layers": "stages.3.*"}
SCORER = ["--scorer", "stepwise-leave-one-out", "--editor", "mean-ablate"]
SCORER += [part for name, value in FEW.items() for part in ("--scorer-arg", f"{name}={value}")]
DEMO = ["--demo", "--limit", "80"]
VERBS = {
    "unlearn": ["--class", "3", *DEMO],
    "harden": [*DEMO, "--eps", "32/255", "--steps", "2", "--attack-images", "30", "--queries", "0"],
    "repair": [*MODEL, "--positive", "7", "--max-drop", "0.5"],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return manifest(tmp_path_factory.mktemp("digits"), limit=80)


@pytest.mark.parametrize("verb", VERBS)
def test_the_search_tries_the_states_of_the_walk(verb, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    args = [verb, *VERBS[verb], *SCORER, "--json"]
    args += ["--data", f"csv:{place}"] if verb == "repair" else []
    assert main([*args, "--dry-run"]) == 0
    estimate = json.loads(capsys.readouterr().out)
    assert main([*args, "--save-scores", "s.safetensors"]) in (0, 1)
    report = json.loads(capsys.readouterr().out)
    scores = load_scores(tmp_path / "s.safetensors")
    steps = scores.header["steps"]
    assert 1 <= len(steps) <= 2
    assert {trial["strength"] for trial in report["search"]} <= {0, *steps}
    assert report["edit"]["changed_units"] == report["edit"]["strength"]
    assert report["edit"]["left_out_units"] == 0
    assert 0 < report["cost"]["score"]["passes"] <= estimate["passes"]["score"]
    chosen = {name for name, values in scores.values.items() if values.any()}
    assert all(name.startswith("stages.3.") for name in chosen)


def test_nothing_to_weigh_against_is_taken(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["unlearn", *VERBS["unlearn"], *SCORER, "--keep", "accuracy"]) == 2
    said = capsys.readouterr().err
    assert "stepwise-leave-one-out gives no signed contributions" in said
    assert said.count("\n") == 1
