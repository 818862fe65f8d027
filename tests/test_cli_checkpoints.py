"""apply, revert, diff, inspect and verify from the command line, on small files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from modeledit.cli.inspect import _shown
from modeledit.cli.main import main
from safetensors.torch import save_file

from modeledit.checkpoint import Staging, read_base
from modeledit.types import Change, EditPlan


@pytest.fixture(autouse=True)
def _edited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """base.safetensors, and out/ in which two of its entries are set to 0."""
    monkeypatch.chdir(tmp_path)
    weight = torch.arange(1.0, 7.0).reshape(2, 3)
    save_file({"conv.weight": weight, "conv.bias": torch.ones(2)}, "base.safetensors")
    change = Change("conv.weight", (2, 3), torch.tensor([1, 4]), torch.zeros(2), "set")
    with Staging(Path("out")) as stage:
        stage.write_edit(read_base(Path("base.safetensors")), EditPlan((change,)), "{}", "{}\n")
        stage.commit()


def test_apply_and_revert(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["apply", "base.safetensors", "out", "-o", "again.safetensors"]) == 0
    assert capsys.readouterr().out == "wrote again.safetensors\n"
    assert Path("again.safetensors").read_bytes() == Path("out/model.safetensors").read_bytes()
    assert main(["revert", "out", "-o", "back.safetensors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["exact"] is True
    assert Path("back.safetensors").read_bytes() == Path("base.safetensors").read_bytes()
    assert main(["revert", "out"]) == 0
    assert capsys.readouterr().out.startswith("wrote modeledit-reverted: ")
    assert main(["revert", "out"]) == 2
    assert main(["revert", "again.safetensors", "out/undo.safetensors", "--force"]) == 0


def test_diff(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", "base.safetensors", "out"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["conv.weight", "2", "6", "33.3", "%"]
    assert lines[-1] == "2 entries differ in 1 of 2 tensors"
    assert main(["diff", "out", "out"]) == 0
    assert capsys.readouterr().out == "identical: 2 tensors, every bit\n"
    assert main(["diff", "base.safetensors", "out", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["changed"], found["identical"]) == (2, False)
    save_file({"conv.weight": torch.ones(1), "new": torch.ones(1)}, "other.safetensors")
    assert main(["diff", "out", "other.safetensors"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == [
        "only in the first: conv.bias",
        "only in the second: new",
        "conv.weight: F32 [2, 3] in the first, F32 [1] in the second",
    ]


def test_a_recipe_has_a_line_for_each_entry() -> None:
    assert _shown({"b": {"x": 1}, "a": "t", "c": 2}) == 'a: t\nb: {"x": 1}\nc: 2'
    assert _shown({}) == "{}"
    assert _shown("text") == "text"


def test_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "out"]) == 0
    text = capsys.readouterr().out
    assert "out/model.safetensors: 2 tensors, 8 numbers" in text
    assert "2 x 3" in text
    assert max(map(len, text.splitlines())) <= 80
    assert main(["inspect", "out", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["path"] == "out/model.safetensors"
    assert {"base", "edit", "recipe"} <= set(found["provenance"])


def test_verify_tells_sound_from_damaged(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "out"]) == 0
    assert "FAIL" not in capsys.readouterr().out
    save_file(
        {"conv.weight": torch.ones(2, 3), "conv.bias": torch.ones(2)}, "out/model.safetensors"
    )
    assert main(["verify", "out"]) == 1
    assert "FAIL  undo" in capsys.readouterr().out
    assert main(["verify", "out", "--json"]) == 1
    found = {check["name"]: check["passed"] for check in json.loads(capsys.readouterr().out)}
    assert (found["files"], found["undo"]) == (True, False)


@pytest.mark.parametrize("verb", ["diff", "apply"])
def test_what_is_not_there_is_named(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "nowhere", "out"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "nowhere" in err
    assert err.count("\n") == 1
