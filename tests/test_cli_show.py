"""What people see: tables at 80 columns, progress, and a reader that leaves."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cli_cases import measured, sample
from modeledit.cli.progress import Bars, progress
from modeledit.cli.show import clean, draw, percent, points, short, together
from modeledit.cli.show_measurement import evaluation
from modeledit.cli.show_result import cost, frontier, harmed, outcome
from rich.text import Text

from modeledit.report import StageCost
from modeledit.runtime import Silent


def drawn(parts: list[Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    draw(*parts)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("passed", [True, False])
def test_the_outcome_fits_80_columns(passed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    lines = drawn(outcome(sample(passed=passed), verbose=True), capsys)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in text
    assert "95.0 %   0.4 %   -94.6" in text
    assert "most harmed retained class: c, recall 90.0 % to 88.0 %" in text
    assert "<- chosen" in text
    assert ("pass  forgotten recall 0.40 <= 1.00 %" if passed else "recall 25.00 > 1.00 %") in text
    assert "verdict: suppressed" in text or not passed
    assert "score 1.5 s, 1,234 passes; search" in text
    assert "edit 0" not in text
    assert text.startswith("unlearn class 0 (a class na…")
    assert "note: validation was cut" in text
    assert "made before" not in text
    brief = "\n".join(drawn(outcome(sample(passed=passed), verbose=False), capsys))
    assert "and 3 more" in brief
    assert "8.stages" in brief
    assert "strength tried" not in brief


def test_the_evaluation_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    report = dataclasses.replace(sample(passed=True), task="evaluate", target="none")
    lines = drawn(evaluation(report), capsys)
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("retain") and "88.0 %" in line for line in lines)
    assert sum(line.startswith(("b ", "c ")) for line in lines) == 2


def test_nobody_harmed() -> None:
    same = measured(0.9, 0.9)
    assert str(harmed(same, same, {0})) == "no retained class lost recall"


def test_words_and_numbers() -> None:
    assert short("abcdefghij", 7) == "ab…ghij"
    assert short("abc", 3) == "abc"
    assert clean("a\nb\x1b") == "a?b?"
    assert (percent(0.0123), percent(None), points(-0.5)) == ("1.2 %", "-", "-50.0")
    assert points(-1e-6) == "+0.0"


def test_progress_only_where_somebody_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(progress(wanted=True), Silent)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert isinstance(progress(wanted=True), Bars)
    assert isinstance(progress(wanted=False), Silent)


def test_bars_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with Bars().stage("scoring [x]", 4) as tick:
        tick(2)
    assert capsys.readouterr().out == ""


@contextmanager
def closed_pipe() -> Iterator[int]:
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def test_a_reader_that_left_is_no_error() -> None:
    code = "import sys; from modeledit.cli.main import main; sys.exit(main(['list']))"
    with closed_pipe() as writer:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_scores_made_before_cost_passes_but_no_seconds() -> None:
    report = sample(passed=True)
    spent = dataclasses.replace(report.cost, score=StageCost(0.0, 1234))
    found = cost(dataclasses.replace(report, cost=spent))
    assert found[0] == "score 1,234 passes, made before"


def test_a_number_stays_with_its_unit(capsys: pytest.CaptureFixture[str]) -> None:
    draw(Text("a " * 38 + together("9.5 s, 718 passes")))
    assert capsys.readouterr().out == ("a " * 38).rstrip() + "\n9.5 s, 718 passes\n"


def test_a_trial_that_was_given_up_says_after_how_many_images(
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = sample(passed=True).search[0]
    given_up = dataclasses.replace(
        whole, strength=12345678, images=64, retain_drop=0.5, feasible=False, chosen=False
    )
    behind = dataclasses.replace(given_up, retain_drop=0.0, feasible=True)
    lines = drawn([frontier([whole, behind, given_up])], capsys)
    assert max(map(len, lines)) <= 80
    assert sum(" after " in line for line in lines) == 2
    assert lines[-2].endswith("behind after 64")
    assert lines[-1].endswith("lost after 64")
