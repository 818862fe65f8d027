"""Start-up: help, version, completion and usage errors, all of them without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from modeledit.cli.main import SECTIONS, main, tool

VERBS = [name for names in SECTIONS.values() for name in names]
CONTRACT = {
    "unlearn": """--class --demo --model --checkpoint --model-arg --data --input-size --crop-pct
        --measure --positive --attack --keep --max-group-drop --max-attack-success
        --max-adaptive-success --mean --std --class-names --limit --group-column --max-unreadable
        --scorer --scorer-arg
        --editor --editor-arg --granularity --strength --order --allocation --max-forget
        --max-retain-drop --output --no-undo --json --report --save-scores --dry-run --force --seed
        --device --batch-size --workers --allow-pickle --quiet --verbose --traceback --help""",
    "score": """--target --scorer --scorer-arg --granularity --keep --scores --demo --model --data
        --seed""",
    "edit": """--scores --editor --strength --max-forget --max-retain-drop --output --report
        --dry-run""",
    "evaluate": "--forget --model --data --demo --json --report --groups --attack --eps --steps",
    "repair": """--metric --group-column --positive --scorer --editor --strength --max-drop
        --max-group-drop --keep --target --hold-out --output --json --report --save-scores
        --dry-run""",
    "harden": """--attack --eps --steps --step-size --norm --targeted --attack-arg --transfer
        --scorer --editor --strength --max-drop --max-attack-success --max-adaptive-success --keep
        --attack-images --queries --output --json --report --save-scores --dry-run""",
    "apply": "--output --json --force",
    "revert": "--output --json --force",
}


def run(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own; its last line on stderr tells whether torch came in."""
    code = (
        "import sys; from modeledit.cli.main import main; code = main(); "
        "print('torch' in sys.modules, file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=60, check=False)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        ([], 0),
        (["unlearn", "--help"], 0),
        (["list"], 0),
        (["init"], 0),
        (["completion", "zsh"], 0),
        (["unlearn", "--class", "3"], 2),
        (["unlearn", "--clas", "3", "--demo"], 2),
        (["score", "--target", "a", "--model", "x", "--data", "x", "--checkpoint", "no"], 2),
        (["unlearn", "--class", "3", "--demo", "--strength", "-1"], 2),
    ],
)
def test_starts_without_torch(args: list[str], code: int, tmp_path: Path) -> None:
    done = run(*args, cwd=tmp_path)
    assert done.returncode == code
    *lines, torch_came_in = done.stderr.splitlines()
    assert torch_came_in == "False"
    assert len(lines) == (1 if code else 0)
    assert bool(done.stdout) == (code == 0)


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_each_verb(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"Usage: modeledit {verb}")
    assert lines[1].startswith("Example: ")
    assert verb in lines[1]
    assert max(map(len, lines)) <= 80
    options = {word.rstrip(",") for line in lines for word in line.split() if word[:2] == "--"}
    assert set(CONTRACT.get(verb, "").split()) <= options


def test_top_help_lists_what_exists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {verb} " in text for verb in VERBS)
    assert max(map(len, text.splitlines())) <= 80


def test_every_option_belongs_to_a_group() -> None:
    for name in VERBS:
        command = tool.get_command(tool.make_context("modeledit", [name]), name)
        assert command is not None
        for param in command.params:
            assert param.param_type_name == "argument" or hasattr(param, "group"), (name, param)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["completion", shell]) == 0
    assert "_MODELEDIT_COMPLETE" in capsys.readouterr().out


def test_a_shell_gets_completions(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_MODELEDIT_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "modeledit unlearn --scorer ra")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert main([]) == 0
    assert "plain,random" in capsys.readouterr().out


def test_list_names_plugins_with_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "editors"]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "editors:"
    named = [line.split() for line in lines if not line.startswith("   ")]
    assert [words[0] for words in named] == ["dampen", "finetune-layers", "mean-ablate", "zero"]
    assert all(len(words) > 3 for words in named)


@pytest.mark.parametrize("columns", [30, 80, 200])
def test_lists_wrap_beside_the_names(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["list", "--json"]) == 0
    known = json.loads(capsys.readouterr().out)
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["list", "scorers"]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == "scorers:"
    head = 2 + max(map(len, known["scorers"])) + 2
    assert max(map(len, lines)) <= max(min(columns, 100), head + 20)
    names = [line[:head].strip() for line in lines]
    assert [name for name in names if name] == sorted(known["scorers"])
    told = " ".join(line[head:] for line in lines)
    assert told == " ".join(known["scorers"][name] for name in sorted(known["scorers"]))
