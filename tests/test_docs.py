"""The pages of docs/: marked examples run and print what is shown, links lead somewhere, and every
scorer has a page.

`<!-- run -->` before a block of Python runs it, one after the other on a page; the block without a
language behind it must be what it prints, where `...` stands for anything. A console block holds
one command behind `$` and its output. `<!-- run slow -->` is for what takes longer. All other
commands must parse.
"""

from __future__ import annotations

import doctest
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from modeledit.cli.main import NAME, main, tool

from modeledit import plugins

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
BLOCK = re.compile(
    r"<!-- run( slow)? -->\n```(python|console)\n(.*?)^```$(?:\n\n```\n(.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
DECIMAL = re.compile(r"-?\d+\.\d+")
SAME = doctest.OutputChecker().check_output


def name(page: Path) -> str:
    return str(page.relative_to(DOCS))


def examples() -> list[object]:
    """Pages with something to run, the quick and the slow of a page apart."""
    found: list[object] = []
    for page in PAGES:
        kinds = {match[1] for match in BLOCK.finditer(page.read_text(encoding="utf-8"))}
        for slow in sorted(kind or "" for kind in kinds):
            marks = [pytest.mark.slow] if slow else []
            found.append(pytest.param(page, slow, id=name(page) + slow, marks=marks))
    return found


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Last digits depend on how many threads add them up."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("page", "slow"), examples())
def test_examples_print_what_is_shown(
    page: Path,
    slow: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {"__name__": "docs"}
    for match in BLOCK.finditer(page.read_text(encoding="utf-8")):
        speed, language, code, shown = match.groups()
        if (speed or "") != slow:
            continue
        if language == "python":
            exec(compile(code, name(page), "exec"), scope)
        else:
            command, _, shown = code.partition("\n")
            assert main(shlex.split(command.removeprefix("$ "))[1:]) == 0
        printed = capsys.readouterr().out
        if shown is not None:
            assert same(shown, printed), f"shown:\n{shown}\nprinted:\n{printed}"


def same(shown: str, printed: str) -> bool:
    """Up to white space, what `...` stands for, and what other processors make of long sums."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    return SAME(shown, printed, flags) or SAME(shown, rounded(shown, printed), flags)


def rounded(shown: str, printed: str) -> str:
    """What was printed, with decimals of `shown` in place of those that are equal to them up to
    half a percent, or up to one in the last digit of three or more."""
    known = DECIMAL.findall(shown)

    def near(match: re.Match[str]) -> str:
        for text in known:
            places = len(text.partition(".")[2])
            unit = 1.01 * 10.0**-places if places >= 3 else 0.0
            if abs(float(text) - float(match[0])) <= max(unit, 0.005 * abs(float(text))):
                return str(text)
        return match[0]

    return DECIMAL.sub(near, printed)


def test_a_wrong_output_would_be_seen() -> None:
    assert same("recall 0.1  ... of 3\n", "recall 0.1 12 of 3\n")
    assert not same("recall 0.1 ... of 3\n", "recall 0.2 12 of 3\n")


def test_last_digits_may_differ() -> None:
    assert same("a 0.0123 ... -0.01966\n", "a 0.0122 b -0.01972\n")
    assert not same("a 0.0123\n", "a 0.0125\n")
    assert not same("a 0.97\n", "a 0.96\n")
    assert not same("a 0.0123 0.5\n", "a 0.5 0.0123\n")


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in LINK.findall(text):
        if not re.match(r"[a-z]+:", link):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """What the headings of a page can be called by."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_parse(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for kind, code in FENCE.findall(page.read_text(encoding="utf-8")):
        for line in code.replace("\\\n", " ").splitlines():
            found = re.match(rf"(?:\$ )?(?:\w+=\S+ )?({NAME} \w.*)", line)
            if found and kind in ("", "sh", "console", "bash"):
                args = shlex.split(found[1], comments=True)[1:]
                with tool.make_context(NAME, list(args)) as ctx:
                    verb = tool.get_command(ctx, args[0])
                    assert verb is not None, line
                    with verb.make_context(args[0], args[1:], parent=ctx):
                        pass


def test_every_scorer_has_a_page_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    described: set[str] = set()
    for page in sorted((DOCS / "scorers").glob("*.md")):
        assert f"scorers/{page.name}" in navigation
        title = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        described |= {part.strip() for part in title.split(",")}
    assert set(plugins.names("scorers")) <= described


@pytest.mark.parametrize("kind", ["editors"])
def test_every_editor_is_described(kind: str) -> None:
    text = (DOCS / "editors.md").read_text(encoding="utf-8")
    assert all(f"`{editor}`" in text for editor in plugins.names(kind))  # type: ignore[arg-type]
