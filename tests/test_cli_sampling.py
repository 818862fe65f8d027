"""--budget, --resume and the progress of long runs, on the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from modeledit.cli.main import main
from modeledit.cli.params import Spending
from modeledit.cli.progress import Bars

SCORE = ["score", "--demo", "--limit", "40", "--target", "class:3", "--scorer", "neuron-shapley"]
SMALL = ["--scorer-arg", "layers=stages.0.*conv1*,stem*", "--scorer-arg", "selective=False"]
OUT = Path("scores.safetensors")
KEPT = Path("scores.safetensors.partial")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(args: list[str], capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert main(args) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert all(part in err for part in parts), err
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5000", (5000, None)),
        ("10m", (None, 600.0)),
        ("90s", (None, 90.0)),
        ("1.5h", (None, 5400.0)),
        ("1d", (None, 86400.0)),
    ],
)
def test_budgets(text: str, value: object) -> None:
    assert Spending().convert(text, None, None) == value


@pytest.mark.parametrize("text", ["0", "1", "-5", "0m", "m", "10 minutes", "1e3", "", "5.5"])
def test_bad_budgets(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused([*SCORE, f"--budget={text}"], capsys, "--budget", "is no budget: give 2 or more")


def test_a_budget_is_kept_and_nothing_is_left_beside(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SCORE, *SMALL, "--budget", "30", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["evaluations"] == 30
    assert [path.name for path in Path().iterdir()] == [OUT.name]
    assert main([*SCORE, *SMALL, "--budget", "1s", "-o", "t.safetensors"]) == 0


def test_budget_and_resume_are_for_scorers_that_sample(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["score", "--demo", "--target", "class:3", "--scorer", "taylor"]
    refused([*args, "--budget", "10"], capsys, "--budget is for scorers that sample", "taylor")
    refused([*args, "--ray", "auto"], capsys, "--ray is for scorers that sample", "taylor")
    refused([*args, "--resume"], capsys, "--resume is for scorers that sample", "neuron-shapley")


def test_a_killed_run_resumes_to_the_same_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    args = [*SCORE, *SMALL, "--budget", "200", "--scorer-arg", "estimator=permutation"]
    args += ["--scorer-arg", "wave=1"]
    command = [sys.executable, "-m", "modeledit.cli.main", *args]
    threads = str(torch.get_num_threads())  # other sums of floats have other last digits
    running = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": threads})
    while not KEPT.exists() and running.poll() is None:
        time.sleep(0.02)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not OUT.exists()
    refused(args, capsys, KEPT.name, "--resume", "--force")
    refused([*args, "--seed", "1", "--resume"], capsys, KEPT.name, "seed 0, this one has 1")
    refused([*args, "--target", "class:12", "--force"], capsys, "class 12 is out of range")
    assert main([*args, "--resume"]) == 0
    assert not KEPT.exists()
    assert main([*args, "-o", "whole.safetensors"]) == 0
    assert OUT.read_bytes() == Path("whole.safetensors").read_bytes()


def test_a_run_with_nothing_to_resume_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SCORE, *SMALL, "--budget", "30", "--resume"]) == 0
    shown = capsys.readouterr()
    assert "there is no scores.safetensors.partial to continue" in shown.err
    assert "30 evaluations of margin on 4 images" in shown.out
    assert "stages.0.0.conv2_1x1" not in shown.out  # of zeros


def test_what_was_sampled_outlives_a_failed_gate(capsys: pytest.CaptureFixture[str]) -> None:
    args = ["unlearn", "--demo", "--limit", "40", "--class", "3", "--scorer", "neuron-shapley"]
    args += [*SMALL, "--scorer-arg", "prior=False", "--editor", "mean-ablate", "-o", "out"]
    args += ["--budget", "30", "--max-forget", "0", "--strength", "1"]
    assert main(args) == 1
    assert "out.partial holds what was sampled" in capsys.readouterr().err
    assert [path.name for path in Path().iterdir()] == ["out.partial"]
    refused(args, capsys, "out.partial holds an unfinished run", "--resume", "--force")
    assert main([*args, "--resume"]) == 1
    Path("out.partial").unlink()
    assert main([*args, "--save-scores", str(OUT)]) == 1
    assert [path.name for path in Path().iterdir()] == [OUT.name]


def test_two_processes_score_to_the_same_bytes() -> None:
    args = [*SCORE, *SMALL, "--budget", "40", "--scorer-arg", "prior=False"]
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of two processes has, at least
    try:
        assert main([*args, "-o", "alone"]) == 0
        assert main([*args, "--workers", "2", "-o", "together"]) == 0
    finally:
        torch.set_num_threads(before)
    assert Path("alone").read_bytes() == Path("together").read_bytes()


def test_the_status_is_one_line_below_the_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    bars = Bars()
    bars.status("nobody draws this")
    with bars.stage("Shapley values", 0) as tick:
        tick(3)
        bars.status("a:1 0.5±0.1 [x]" + "y" * 90)
    bars.status("nor this")
    out, err = capsys.readouterr()
    assert out == ""
    assert "a:1 0.5±0.1 [x]yyy" in err
    assert "…" in err
    assert "y" * 80 not in err
    assert "3/?" in err
    assert "nobody" not in err
    assert "nor this" not in err
