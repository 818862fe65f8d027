"""modeledit.toml: defaults for a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from modeledit.cli.init import TEMPLATE
from modeledit.cli.main import main, tool


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def parsed(text: str, *args: str) -> dict[str, Any]:
    """The parameters of a verb, as the file and the arguments give them."""
    Path("modeledit.toml").write_text(text)
    context = tool.make_context("modeledit", list(args))
    command = tool.get_command(context, args[0])
    assert isinstance(command, click.Command)
    return command.make_context(args[0], list(args[1:]), parent=context).params


def test_the_file_gives_defaults_and_flags_win() -> None:
    text = 'model = "timm:x"\nmax-forget = 0.05\nseed = 4\nstrength = 30\nallow-pickle = true'
    found = parsed(text, "unlearn", "--class", "1", "--seed", "7")
    assert found["spec"] == "timm:x"
    assert found["max_forget"] == 0.05
    assert found["seed"] == 7
    assert found["strength"] == 30
    assert type(found["strength"]) is int
    assert found["allow_pickle"] is True


def test_lists_tables_and_tables_of_verbs() -> None:
    text = (
        "class = [3, 5]\nmean = [0.5, 0.25]\nscorer-arg = { samples = 64, f = 'logit' }\n"
        "seed = 1\n[unlearn]\nseed = 2\n[score]\ntarget = 'class:1'"
    )
    found = parsed(text, "unlearn")
    assert found["classes"] == ("3", "5")
    assert found["mean"] == (0.5, 0.25)
    assert found["scorer_arg"] == (("samples", 64), ("f", "logit"))
    assert found["seed"] == 2
    assert parsed(text, "score")["target"] == "class:1"
    assert parsed(text, "score")["seed"] == 1


def test_demo_sets_the_files_model_and_data_aside() -> None:
    found = parsed(
        'model = "timm:x"\ndata = "folder:y"\nmean = [0.5]\nseed = 3', "unlearn", "--demo"
    )
    assert (found["spec"], found["data"], found["mean"], found["seed"]) == (None, None, None, 3)
    assert parsed("demo = true", "unlearn", "--model", "m")["demo"] is False


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("max-forgot = 0.1", ["'max-forgot'", "modeledit.toml", "did you mean max-forget?"]),
        ("[unlearn]\ntarget = 'x'", ["'target'", "[unlearn] of modeledit.toml"]),
        ("force = true", ["'force'"]),
        ("unlearn = 3", ["unlearn = 3", "[unlearn]"]),
        ("seed = ", ["modeledit.toml is not valid TOML"]),
        ("demo = 'yes'", ["demo = 'yes'", "true or false"]),
        ("seed = true", ["seed = True"]),
        ("max-forget = 3", ["--max-forget (from modeledit.toml)", "'3'", "0..1"]),
        ("strength = -0.5", ["--strength (from modeledit.toml)", "negative"]),
    ],
)
def test_mistakes_name_file_and_key(
    text: str, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("modeledit.toml").write_text(text)
    assert main(["unlearn", "--class", "3"]) == 2
    line = capsys.readouterr().err
    assert all(part in line for part in parts), line
    assert line.count("\n") == 1


def test_help_and_init_work_beside_a_broken_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("modeledit.toml").write_text("seed = ")
    assert main(["unlearn", "--help"]) == 0
    assert main(["init", "--force"]) == 0
    assert capsys.readouterr().err == ""


def test_every_key_of_the_template_is_known() -> None:
    lines = [line.removeprefix("# ") for line in TEMPLATE.splitlines()]
    keys = [line for line in lines if " = " in line or line.startswith("[")]
    assert len(keys) > 12
    found = parsed("\n".join(keys), "unlearn")
    assert found["spec"] == "timm:resnet18"
    assert found["classes"] == ("3",)
