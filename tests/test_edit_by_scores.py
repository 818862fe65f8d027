"""Scores made before: what may be edited by them, and what an edit by them would change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from modeledit.cli.main import main

from modeledit import demo
from modeledit.errors import ModelEditError
from modeledit.pipeline import edit, planned
from modeledit.types import Scores


@pytest.fixture(scope="module")
def few():
    return demo.load(limit=40)


def scores(model, target, **header):
    values = {
        name: torch.rand(each.shape, generator=torch.Generator().manual_seed(1))
        for name, each in model.module.named_parameters()
        if each.dim() > 1
    }
    return Scores("weight", values, header={"scorer": "s", "target": target, **header})


@pytest.mark.parametrize(
    ("target", "verb"),
    [
        ("group:worst", "use `modeledit repair --scores FILE`"),
        ("attack", "use `modeledit harden --scores FILE`"),
        ("accuracy", "edit judges class:NAME: score such a target"),
    ],
)
@pytest.mark.parametrize("job", [edit, planned])
def test_other_targets_are_sent_to_their_verbs(job, target, verb, few):
    model, data = few
    with pytest.raises(ModelEditError, match=verb):
        job(model, data, scores(model, target), strength=5)


def test_what_would_change_obeys_the_layers(few):
    model, data = few
    made = scores(model, "class:3")
    everywhere = planned(model, data, made, 20)
    there = planned(model, data, made, 20, layers=("stages.3",))
    assert {c.tensor.split(".")[0] for c in everywhere.changes} > {"stages"}
    assert {c.tensor[:9] for c in there.changes} == {"stages.3."}


def test_what_would_change_is_asked_of_the_scored_model_only(few):
    model, data = few
    with pytest.raises(ModelEditError, match="for another model"):
        planned(model, data, scores(model, "class:3", model_digest="x"), 20)


def test_scores_may_be_weighed_against_what_is_kept(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = ["score", "--demo", "--limit", "30", "--target", "class:3", "--scorer", "gate-ig"]
    assert main([*asked, "--quiet", "--json", "--keep", "accuracy", "-o", "s.safetensors"]) == 0
    assert json.loads(capsys.readouterr().out)["keep"] == "accuracy"
    assert main([*asked, "--quiet", "--keep", "class:3", "-o", "t.safetensors"]) == 2
    assert "--keep class:3 is what is edited" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("scorer", "target", "verbs"),
    [
        ("magnitude", "class:3", ["edit"]),
        ("response-norm", "class:3", ["edit", "picture"]),
        ("response-norm", "accuracy", ["picture"]),
        ("gate-ig", "attack", ["harden", "picture"]),
    ],
)
def test_only_what_the_scores_are_good_for_is_suggested(
    scorer, target, verbs, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    asked = ["score", "--demo", "--limit", "20", "--scorer", scorer, "--target", target]
    asked += ["--eps", ".5", "--steps", "1"] if target == "attack" else []
    assert main([*asked, "--quiet", "-o", "s.safetensors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = [line.split()[2] for line in lines if line.startswith("use ")]
    assert told == verbs
