"""What a run prints, writes and returns, with a pipeline that does nothing."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from cli_cases import sample
from modeledit.cli import inputs
from modeledit.cli.main import main

import modeledit
from modeledit import checkpoint
from modeledit.errors import DataError, GateError
from modeledit.report import Report
from modeledit.types import Scores


@dataclasses.dataclass
class FakeResult:
    report: Report
    scores: Scores
    loaded: Any

    @property
    def passed(self) -> bool:
        return self.report.passed

    def save(self, out: Path, *, force: bool, overwrite: bool, undo: bool) -> Path:
        if not (self.passed or force):
            raise GateError("must not be asked for")
        out.mkdir(exist_ok=overwrite)
        (out / "undo" if undo else out / "model").touch()
        return out.resolve()


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A stand-in for the pipeline; `passed` decides the outcome, `calls` records the questions."""
    monkeypatch.chdir(tmp_path)
    box = SimpleNamespace(passed=True, calls=[], error=None)

    def unlearn(model: Any, data: Any, forget: Any, **options: Any) -> FakeResult:
        box.calls.append((model, data, forget, options))
        if box.error is not None:
            raise box.error
        scores = Scores("weight", {"w": torch.ones(3)}, header={"scorer": "peps"})
        options["on_scores"](scores)
        return FakeResult(sample(passed=box.passed), scores, SimpleNamespace(config={}))

    def evaluate(*_: Any) -> Report:
        return dataclasses.replace(sample(passed=True), task="evaluate", edit=None, after=None)

    stub = ModuleType("modeledit.pipeline")
    vars(stub).update(unlearn=unlearn, evaluate=evaluate, forget_target=lambda names, _: names)
    monkeypatch.setitem(sys.modules, "modeledit.pipeline", stub)
    monkeypatch.setattr(modeledit, "pipeline", stub, raising=False)
    monkeypatch.setattr(inputs, "load", lambda *_: ("network", "images"))
    return box


UNLEARN = ["unlearn", "--demo", "--class", "3", "--class", "cat"]


def test_options_reach_the_pipeline(asked: SimpleNamespace) -> None:
    more = ["--strength", "30", "--max-forget", "0.02", "--scorer", "random", "--editor", "zero"]
    more += ["--order", "lowest", "--granularity", "filter", "--seed", "5", "--device", "cpu"]
    assert main([*UNLEARN, *more, "--batch-size", "7", "--workers", "1"]) == 0
    ((model, data, forget, options),) = asked.calls
    assert (model, data, forget) == ("network", "images", ("3", "cat"))
    assert options["strength"] == 30
    assert (options["max_forget"], options["max_retain_drop"]) == (0.02, 0.01)
    assert (options["scorer"].name, options["scorer"].granularity) == ("random", "filter")
    assert (options["editor"].order, options["editor"].allocation) == ("lowest", "auto")
    runtime = options["runtime"]
    assert (runtime.seed, runtime.batch_size, runtime.workers) == (5, 7, 1)
    assert runtime.device == torch.device("cpu")


def test_a_pass_writes_and_says_so(
    asked: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*UNLEARN, "-o", "out"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[-3:] == [
        "wrote   out",
        'load    modeledit.load_model("out").module',
        "revert  modeledit revert out -o restored",
    ]
    assert max(map(len, out.splitlines())) <= 80
    assert (Path("out") / "undo").exists()
    assert main([*UNLEARN, "-o", "out"]) == 2
    assert len(asked.calls) == 1
    (Path("out") / "config.json").touch()
    (Path("out") / "model.safetensors").touch()
    assert main([*UNLEARN, "-o", "out", "--force", "--no-undo"]) == 0
    assert "revert" not in capsys.readouterr().out


def test_a_failed_gate_writes_report_and_scores_only(
    asked: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    asked.passed = False
    assert main([*UNLEARN, "--report", "r.json", "--save-scores", "s.safetensors"]) == 1
    out = capsys.readouterr().out
    assert "FAIL" in out
    assert "no checkpoint was written" in out
    assert not Path("modeledit-out").exists()
    assert json.loads(Path("r.json").read_text())["verdict"] == "no effect"
    assert checkpoint.load_scores(Path("s.safetensors")).count == 3
    assert main([*UNLEARN, "--force"]) == 1
    assert Path("modeledit-out").is_dir()


@pytest.mark.parametrize("passed", [True, False])
def test_json_is_alone_on_stdout(
    passed: bool, asked: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    asked.passed = passed
    assert main([*UNLEARN, "--json"]) == (0 if passed else 1)
    found = json.loads(capsys.readouterr().out)
    assert found == sample(passed=passed).to_dict()
    assert main(["evaluate", "--demo", "--forget", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["task"] == "evaluate"


def test_errors_and_interruptions_leave_nothing(
    asked: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    asked.error = DataError("no such data")
    assert main([*UNLEARN, "--report", "r.json"]) == 2
    assert capsys.readouterr().err == "modeledit: error: no such data\n"
    asked.error = KeyboardInterrupt()
    assert main([*UNLEARN, "--report", "r.json"]) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def test_an_interruption_says_what_was_written(
    asked: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(FakeResult, "save", interrupt)
    assert main([*UNLEARN, "--report", "r.json"]) == 130
    assert capsys.readouterr().err == "modeledit: interrupted, r.json was written\n"
    assert asked.calls


def test_a_missing_gpu_is_named(
    asked: SimpleNamespace, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert main([*UNLEARN, "--device", "cuda"]) == 2
    assert "--device cpu" in capsys.readouterr().err
    assert main([*UNLEARN, "--scorer-arg", "bogus=1"]) == 2
    assert "'bogus'" in capsys.readouterr().err
    assert asked.calls == []
