"""The command line end to end: the demo's whole round, and an interruption in the middle."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
from data_files import class_folders, write
from demo_cases import COMMAND, UNLEARN, environment, files, refused
from modeledit.cli.main import main

from modeledit import demo

PARTS = ["config.json", "edit.safetensors", "model.safetensors", "report.json", "README.md"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """out/ from a process of its own, with what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    args = [*COMMAND, *UNLEARN, "--demo", "-o", "out", "--json", "--save-scores", "s.safetensors"]
    done = subprocess.run(
        args, cwd=folder, env=environment(PYTHONHASHSEED="1"), capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    (folder / "stdout").write_text(done.stdout)
    return folder


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_what_unlearn_writes_and_prints(place: Path) -> None:
    assert sorted(p.name for p in (place / "out").iterdir()) == sorted([*PARTS, "undo.safetensors"])
    assert (place / "out" / "undo.safetensors").stat().st_mode & 0o777 == 0o600
    printed = json.loads((place / "stdout").read_text())
    assert printed == json.loads((place / "out" / "report.json").read_text())
    assert printed["target"] == "class:3"
    assert all(gate["passed"] for gate in printed["gates"])
    assert sorted(p.name for p in place.iterdir()) == ["out", "s.safetensors", "stdout"]


def test_the_same_bytes_in_another_process_and_in_two_steps(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*UNLEARN, "--demo", "-o", "again"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "verdict: suppressed, unverified" in out
    assert main(["edit", "--demo", "--scores", str(place / "s.safetensors"), "-o", "steps"]) == 0
    for folder in ("again", "steps"):
        for name in ("model.safetensors", "edit.safetensors", "undo.safetensors", "config.json"):
            assert (Path(folder) / name).read_bytes() == (place / "out" / name).read_bytes()


def test_score_writes_what_unlearn_keeps(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["score", "--demo", "--target", "class:3", "-o", "s.safetensors"]
    assert main([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scorer"] == "stepwise-peps"
    assert Path("s.safetensors").read_bytes() == (place / "s.safetensors").read_bytes()
    assert main(args) == 2


def test_evaluate_the_written_checkpoint(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(place / "out"), "--demo", "--forget", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    report = json.loads((place / "stdout").read_text())
    assert found["before"] == report["after"]
    assert found["model"]["digest"] == report["model"]["edited"]
    assert list(Path().iterdir()) == []


def test_the_checkpoint_verbs(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, out = str(demo.WEIGHTS), str(place / "out")
    assert main(["verify", out]) == 0
    assert "FAIL" not in capsys.readouterr().out
    assert main(["apply", base, f"{out}/edit.safetensors", "-o", "applied.safetensors"]) == 0
    model = (place / "out" / "model.safetensors").read_bytes()
    assert Path("applied.safetensors").read_bytes() == model
    assert main(["revert", out, "-o", "restored.safetensors"]) == 0
    assert Path("restored.safetensors").read_bytes() == demo.WEIGHTS.read_bytes()
    assert main(["revert", out, "-o", "restored"]) == 0
    assert Path("restored/model.safetensors").read_bytes() == demo.WEIGHTS.read_bytes()
    capsys.readouterr()
    assert main(["diff", base, out, "--json"]) == 0
    report = json.loads((place / "stdout").read_text())
    assert json.loads(capsys.readouterr().out)["changed"] == report["edit"]["changed_weights"]
    assert main(["diff", base, "restored", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["identical"] is True
    for each in (out, f"{out}/edit.safetensors", f"{out}/undo.safetensors", base):
        assert main(["inspect", each]) == 0
        assert capsys.readouterr().out


@pytest.mark.parametrize("more", [[], ["--json"], ["--strength", "5"]])
def test_a_dry_run_writes_nothing(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*UNLEARN, "--demo", "--dry-run", *more]) == 0
    out, err = capsys.readouterr()
    assert (bool(out), err) == (True, "")
    assert list(Path().iterdir()) == []


def test_a_dry_run_of_an_edit(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["edit", "--demo", "--scores", str(place / "s.safetensors"), "--dry-run", "--strength"]
    assert main([*args, "100", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["changed"] == 100
    assert main([*args, "auto"]) == 2
    assert list(Path().iterdir()) == []


def test_a_failed_gate(capsys: pytest.CaptureFixture[str]) -> None:
    args = [*UNLEARN, "--demo", "--limit", "150", "--scorer", "random", "--strength", "1", "--json"]
    assert main([*args, "--report", "r.json"]) == 1
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out) == json.loads(Path("r.json").read_text())
    assert json.loads(out)["verdict"] == "no effect"
    assert [p.name for p in Path().iterdir()] == ["r.json"]
    assert main([*args, "--force"]) == 1
    assert (Path("modeledit-out") / "model.safetensors").exists()


def test_outputs_that_cannot_be(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("full").mkdir()
    Path("full/precious").write_text("mine")
    Path("file").write_text("mine")
    refused([*UNLEARN, "--demo", "-o", "full"], capsys, "full exists", "--force")
    refused([*UNLEARN, "--demo", "-o", "full", "--force"], capsys, "full holds other files")
    refused([*UNLEARN, "--demo", "-o", "file"], capsys, "file")
    refused([*UNLEARN, "--demo", "-o", "file/out"], capsys, "file")
    refused([*UNLEARN, "--demo", "-o", "/proc/modeledit-out"], capsys, "/proc/modeledit-out")
    base = ["apply", str(demo.WEIGHTS), str(place / "out")]
    refused([*base, "-o", "full"], capsys, "full exists")
    refused(["revert", str(place / "out"), "-o", "full"], capsys, "full exists")
    refused(["score", "--demo", "--target", "class:3", "-o", "file"], capsys, "file exists")


def test_scores_of_another_model_or_none(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edited = ["edit", "--model", str(place / "out"), "--demo", "--strength", "5", "--scores"]
    refused([*edited, str(place / "s.safetensors")], capsys, "made for another model")
    refused([*edited, "nowhere"], capsys, "nowhere")
    refused([*edited, str(demo.WEIGHTS)], capsys, "digits.safetensors")


SLOW = """
import time
from pathlib import Path
from torch import nn

class Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc, self.calls = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 5:
            Path("running").touch()
            time.sleep(0.05)
        return self.fc(self.conv(x).relu().mean((2, 3)))
"""


def test_an_interruption_in_the_middle() -> None:
    Path("slow.py").write_text(SLOW)
    write(Path("data"), class_folders(["train", "validation", "test"], "abc", 4))
    args = ["--model", "module:slow:Slow", "--input-size", "4", "--mean", "0,0,0", "--std", "1,1,1"]
    more = ["--data", "folder:data", "--scorer-arg", "rounds=1000", "--batch-size", "1"]
    more += ["--scorer-arg", "enough=0", "--scorer-arg", "share=1.0", "--scorer-arg", "kappa=9"]
    before = files()
    process = subprocess.Popen(
        [*COMMAND, "unlearn", "--class", "b", *args, *more],
        env=environment(PYTHONDONTWRITEBYTECODE="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A runner in the background ignores SIGINT, and a child would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not Path("running").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert err == "modeledit: interrupted, nothing was written\n"
    Path("running").unlink()
    assert files() == before
