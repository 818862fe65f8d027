"""The end of `unlearn` and `edit`: write what was asked for, print, return the exit code."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import GATE_FAILED, PASSED
from .files import Output, check, record, write_text
from .options_run import Printing, Saving
from .show import draw, emit

if TYPE_CHECKING:
    from modeledit.report import Report
    from modeledit.result import Result
    from modeledit.types import Scores


@dataclass(frozen=True)
class Destination:
    """Everything an edit may write, and whether it may replace things."""

    saving: Saving
    printing: Printing
    scores: Path | None
    force: bool

    def check(self, inputs: Sequence[Path]) -> None:
        """Refuse before any work."""
        outputs = [Output("-o", self.saving.output, folder=True)]
        outputs += files(("--report", self.printing.report), ("--save-scores", self.scores))
        check(outputs, inputs, force=self.force)
        from modeledit.checkpoint import Staging

        Staging.check(self.saving.output, force=self.force, inputs=inputs)

    def keep_scores(self, scores: Scores) -> None:
        """Write --save-scores FILE if it was asked for, before anything else can go wrong."""
        if self.scores is not None:
            from modeledit.checkpoint import save_scores

            save_scores(self.scores, scores)
            record(self.scores)


def files(*named: tuple[str, Path | None]) -> list[Output]:
    """The outputs that were asked for."""
    return [Output(flag, path) for flag, path in named if path is not None]


def finish(result: Result, to: Destination, *, verbose: bool) -> int:
    """The report first: it outlives a failed gate and a failed write."""
    save_report(result.report, to.printing)
    saved = None
    if result.passed or to.force:
        saved = to.saving.output
        result.save(saved, force=to.force, overwrite=to.force, undo=not to.saving.no_undo)
        record(saved)
    if to.printing.as_json:
        emit(result.report.to_json())
    else:
        _print(result, to, saved, verbose)
    return PASSED if result.passed else GATE_FAILED


def save_report(report: Report, printing: Printing) -> None:
    """Write --report FILE if it was asked for."""
    if printing.report is not None:
        write_text(printing.report, report.to_json())


def _print(result: Result, to: Destination, saved: Path | None, verbose: bool) -> None:
    from .show_result import outcome

    draw(*outcome(result.report, verbose=verbose))
    lines = [""]
    for what, path in (("scores", to.scores), ("report", to.printing.report)):
        if path is not None:
            lines.append(f"{what:<8}{path}")
    if saved is None:
        lines.append("no checkpoint was written: a gate failed (--force writes it all the same)")
    else:
        failed = "" if result.passed else ", although a gate failed (--force)"
        lines += [f"wrote   {saved}{failed}", f"load    {_loader(result, saved)}"]
        if not to.saving.no_undo:
            lines.append(f"revert  modeledit revert {shlex.quote(str(saved))} -o restored")
    emit("\n".join(lines) + "\n")


def _loader(result: Result, saved: Path) -> str:
    """The line of Python that loads what was written."""
    if "architecture" in result.loaded.config:
        return f'timm.create_model("local-dir:{saved}", pretrained=True)'
    return f'modeledit.load_model("{saved}").module'
