"""What the command line refuses: one line on stderr, exit code 2, nothing written."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest
from modeledit.cli import files
from modeledit.cli.errors import explain
from modeledit.cli.main import main
from modeledit.cli.params import KeyValue, Names, Numbers, Share, Strength

from modeledit.errors import ModelEditError

UNLEARN = ["unlearn", "--demo", "--class", "3"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def refused(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    before = sorted(Path().iterdir())
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("modeledit: error: ")
    assert err.count("\n") == 1
    assert sorted(Path().iterdir()) == before
    return err


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        (["unlern"], ["'unlern'", "did you mean unlearn?"]),
        (["zzz"], ["'zzz'", "use one of unlearn, repair"]),
        (["--bogus"], ["--bogus", "modeledit --help"]),
        (["unlearn"], ["no class", "--class"]),
        (["unlearn", "--class", "3"], ["--model and --data", "--demo", "modeledit init"]),
        (["unlearn", "--class", "3", "--model", "timm:x"], ["--data not given"]),
        (["unlearn", "--clas", "3"], ["--clas", "did you mean --class?"]),
        (["unlearn", "--demo", "--class"], ["--class", "requires an argument"]),
        (["edit", "--demo"], ["--scores is missing", "edit --help"]),
        (["score", "--demo"], ["--target is missing"]),
        (["apply", "x"], ["EDIT is missing", "apply --help"]),
        (["study"], ["missing command: see `modeledit study --help`"]),
        (["score", "--demo", "--target", "clas:3"], ["'clas:3'", "class:NAME"]),
        (["list", "sccorers"], ["'sccorers'", "'scorers'"]),
        ([*UNLEARN, "extra"], ["extra"]),
        ([*UNLEARN, "--strength", "-0.1"], ["'-0.1' is negative", "auto", "0.003"]),
        ([*UNLEARN, "--strength", "1.5"], ["1.5", "a fraction"]),
        ([*UNLEARN, "--strength", "nan"], ["'nan'"]),
        ([*UNLEARN, "--strength", "much"], ["'much'", "a count such as 30"]),
        ([*UNLEARN, "--max-forget", "2"], ["--max-forget", "'2'", "0..1"]),
        ([*UNLEARN, "--max-retain-drop", "nan"], ["'nan'", "0..1"]),
        ([*UNLEARN, "--scorer", "pepps"], ["'pepps'", "did you mean peps?"]),
        ([*UNLEARN, "--editor", "qqq"], ["'qqq'", "dampen, finetune-layers, mean-ablate, zero"]),
        ([*UNLEARN, "--scorer-arg", "f"], ["'f'", "NAME=VALUE"]),
        ([*UNLEARN, "--granularity", "layer"], ["--granularity", "'layer'", "weight"]),
        ([*UNLEARN, "--limit", "0"], ["--limit", "'0'", "from 1"]),
        ([*UNLEARN, "--seed", "-1"], ["--seed", "'-1'"]),
        ([*UNLEARN, "--batch-size", "x"], ["--batch-size", "'x'"]),
        ([*UNLEARN, "--device", "tpu"], ["'tpu'", "cuda:N"]),
        ([*UNLEARN, "--mean", "0.5"], ["--mean", "--model"]),
        ([*UNLEARN, "--group-column", "age"], ["--group-column", "--data"]),
        ([*UNLEARN, "--model", "m", "--data", "d"], ["--demo", "leave it out"]),
        ([*UNLEARN, "--mean", "a,b", "--model", "m"], ["'a,b'", "0.5,0.5,0.5"]),
        ([*UNLEARN, "--class-names", "a,,b", "--model", "m"], ["empty name"]),
        ([*UNLEARN, "--class-names", "a,a", "--model", "m"], ["'a' is given twice"]),
        (["evaluate", "m", "--model", "n", "--demo"], ["two models", "name one"]),
    ],
)
def test_bad_usage(args: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(args, capsys)
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("flag", "existing", "parts"),
    [
        ("-o", "folder", ["folder", "exists", "--force"]),
        ("-o", "file", ["file", "folder"]),
        ("--report", "file", ["file exists", "--force"]),
        ("--report", "folder", ["is a folder", "name a file"]),
        ("--save-scores", "nowhere/scores.safetensors", ["no folder", "create it"]),
        ("--report", "modeledit-out/report.json", ["modeledit-out", "separate places"]),
    ],
)
def test_outputs_are_refused_before_any_work(
    flag: str, existing: str, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("folder").mkdir()
    Path("file").write_text("precious")
    line = refused([*UNLEARN, flag, existing], capsys)
    assert all(part in line for part in parts), line
    assert Path("file").read_text() == "precious"


def test_an_input_is_never_an_output() -> None:
    Path("model.safetensors").write_text("precious")
    output = files.Output("--report", Path("model.safetensors"))
    with pytest.raises(ModelEditError, match="is an input"):
        files.check([output], [Path("model.safetensors")], force=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_named() -> None:
    Path("locked").mkdir(mode=0o500)
    with pytest.raises(ModelEditError, match="not writable"):
        files.check([files.Output("--report", Path("locked/r.json"))], [], force=False)


def test_init_does_not_overwrite(capsys: pytest.CaptureFixture[str]) -> None:
    Path("modeledit.toml").write_text("mine")
    assert "--force" in refused(["init"], capsys)
    assert Path("modeledit.toml").read_text() == "mine"
    assert main(["init", "--force"]) == 0
    assert "max-forget" in Path("modeledit.toml").read_text()


@pytest.mark.parametrize(
    ("text", "value"),
    [("auto", "auto"), ("0.003", 0.003), ("3e-3", 0.003), ("1.0", 1.0), ("30", 30), ("1", 1)],
)
def test_strength(text: str, value: object) -> None:
    found = Strength().convert(text, None, None)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("samples=64", ("samples", 64)),
        ("bn-mode=eval", ("bn_mode", "eval")),
        ("x=(1, 2)", ("x", (1, 2))),
        ("on=True", ("on", True)),
        ("path=a=b", ("path", "a=b")),
        ("empty=", ("empty", "")),
    ],
)
def test_key_value(text: str, value: tuple[str, object]) -> None:
    assert KeyValue().convert(text, None, None) == value


def test_lists_and_shares() -> None:
    assert Numbers().convert("0.5, 1,2e-1", None, None) == (0.5, 1.0, 0.2)
    assert Names().convert("a cat, b", None, None) == ("a cat", "b")
    assert Share().convert("0.25", None, None) == 0.25
    with pytest.raises(click.BadParameter):
        Numbers().convert("1,inf", None, None)


def test_unforeseen_errors_are_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_kind: str) -> dict[str, str]:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("modeledit.plugins.summaries", broken)
    line = refused(["list"], capsys)
    assert "unexpected RuntimeError: two lines" in line
    assert "--traceback" in line
    monkeypatch.setenv("MODELEDIT_TRACEBACK", "1")
    assert main(["list"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_explanations_of_the_machine() -> None:
    assert "--batch-size" in explain(MemoryError())
    assert explain(PermissionError(13, "Permission denied", "x.zip")).startswith(
        "x.zip: Permission"
    )


def test_interruption(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_kind: str) -> dict[str, str]:
        raise KeyboardInterrupt

    monkeypatch.setattr("modeledit.plugins.summaries", interrupt)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "modeledit: interrupted, nothing was written\n"
