"""The demo on the command line, and how it refuses: one line, and nothing touched."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from modeledit.cli.main import main

from modeledit import demo

UNLEARN = ["unlearn", "--class", "3"]
COMMAND = [sys.executable, "-m", "modeledit.cli.main"]


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **extra}


def files() -> dict[str, bytes | None]:
    found = sorted(Path().rglob("*"))
    return {str(p): p.read_bytes() if p.is_file() else None for p in found}


def refused(args: list[str], capsys: pytest.CaptureFixture[str], *parts: str) -> None:
    before, own = files(), demo.WEIGHTS.read_bytes()
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("modeledit: error: ")
    assert err.count("\n") == 1
    assert "unexpected" not in err
    assert files() == before
    assert demo.WEIGHTS.read_bytes() == own
    for part in parts:
        assert part in err, err


def own_model(weights: str | Path) -> list[str]:
    """The demo's architecture with weights of the user's."""
    size = ["--input-size", "32", "--mean", "0.3", "--std", "0.4"]
    return ["--model", f"timm:{demo.ARCHITECTURE}", "--checkpoint", str(weights), *size]
