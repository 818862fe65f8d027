"""What the documents say: their Python runs, their commands exist, their scorer is one."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from modeledit.cli.main import NAME, tool

from modeledit.testing import ScorerContract

ROOT = Path(__file__).parents[1]
NOT_RUN = "<!-- not run -->"
BLOCK = re.compile(rf"^({NOT_RUN}\n+)?```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SCORER = "modeledit/scorers/most_active.py"


def blocks(name: str, *kinds: str) -> list[str]:
    """The code blocks of a document that are to be run, in order."""
    text = (ROOT / name).read_text(encoding="utf-8")
    found = BLOCK.findall(text)
    return [code for skip, kind, code in found if kind in kinds and not skip]


def commands(name: str) -> Iterator[str]:
    """Every `modeledit ...` line of shell blocks, and behind a prompt of blocks of any kind."""
    for code in blocks(name, "sh", "console", "bash", ""):
        for line in code.replace("\\\n", " ").splitlines():
            if found := re.match(rf"(?:\$ )?({NAME} .*)", line):
                yield found[1].partition("  #")[0]


def test_the_documents_hold_what_is_tested() -> None:
    assert len(blocks("README.md", "python")) >= 2
    assert len(blocks("CONTRIBUTING.md", "python")) == 1
    assert len(list(commands("README.md"))) >= 5


def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after the other, in one session, as a reader would; what they print is what is shown."""
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "readme"}
    for number, code in enumerate(blocks("README.md", "python")):
        exec(compile(code, f"README.md, block {number}", "exec"), scope)
        shown = output_after(code)
        printed = capsys.readouterr().out
        if shown is not None:
            assert printed == shown
    assert any(tmp_path.iterdir())


def output_after(code: str) -> str | None:
    """The block without a language right after a block of Python."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rest = text.partition(code)[2]
    found = re.match(r"```\n\n```\n(.*?)^```$", rest, re.MULTILINE | re.DOTALL)
    return found[1] if found else None


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_command_parses(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in commands(name):
        parsed(shlex.split(line)[1:])


def parsed(args: list[str]) -> None:
    """Verb, options and values are accepted; nothing is run."""
    with tool.make_context(NAME, list(args), resilient_parsing=False) as ctx:
        verb = tool.get_command(ctx, args[0])
        assert verb is not None, args
        with verb.make_context(args[0], args[1:], parent=ctx):
            pass


def test_a_misspelt_command_would_be_seen() -> None:
    with pytest.raises(click.UsageError):
        parsed(["unlearn", "--clas", "3"])
    with pytest.raises(AssertionError):
        parsed(["unlern"])
    with pytest.raises(click.UsageError):
        parsed(["unlearn", "--class", "3", "--scorer", "pepps"])


def test_the_targets_of_make_exist() -> None:
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"^make (\w+)", text, re.MULTILINE):
            assert re.search(rf"^{target}:", rules, re.MULTILINE), target


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_linked_files_exist(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert "://" in link or (ROOT / link).exists(), link


def most_active() -> type:
    """The scorer of CONTRIBUTING, from a file named as it says."""
    spec = importlib.util.spec_from_loader("modeledit.scorers.most_active", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        (code,) = blocks("CONTRIBUTING.md", "python")
        exec(compile(code, SCORER, "exec"), vars(module))
    finally:
        del sys.modules[spec.name]
    found: type = module.MostActive  # type: ignore[attr-defined]
    return found


class TestTheScorerOfContributing(ScorerContract):
    plugin = most_active()

    def test_its_name_is_that_of_its_file(self) -> None:
        assert SCORER in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
        assert self.plugin().name == "most-active"
        assert self.plugin().passes(1000, 0, 0) == self.plugin().inputs


def test_no_document_names_a_machine() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert str(ROOT) + os.sep not in text
