"""What is written and printed, and how to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .command import option
from .options import FILE, bundle, number
from .params import Device

OUT = Path("modeledit-out")


@dataclass(frozen=True)
class Saving:
    """What an edit writes."""

    output: Path
    no_undo: bool
    dry_run: bool


@dataclass(frozen=True)
class Printing:
    """How the report leaves."""

    as_json: bool
    report: Path | None


@dataclass(frozen=True)
class Run:
    """Where and how to run; `device` may be auto."""

    seed: int
    device: str
    batch_size: int
    workers: int
    quiet: bool
    verbose: bool


force_option = option(
    "--force",
    is_flag=True,
    group="Output",
    help="Replace what exists; write despite a failed gate.",
)


json_option = option(
    "--json", "as_json", is_flag=True, group="Output", help="Print the report as JSON."
)


save_scores_option = option(
    "--save-scores",
    type=FILE,
    metavar="FILE",
    group="Output",
    help="Also write the scores, even if a gate fails.",
)


saving_options = bundle(
    "saving",
    Saving,
    [
        option(
            "-o",
            "--output",
            type=FILE,
            metavar="DIR",
            default=OUT,
            show_default=True,
            group="Output",
            help="Folder of the edited checkpoint.",
        ),
        option(
            "--no-undo",
            is_flag=True,
            group="Output",
            help="Leave out the file that reverts the edit.",
        ),
        option(
            "--dry-run",
            is_flag=True,
            group="Output",
            help="Say what it would take; change nothing.",
        ),
    ],
)


printing_options = bundle(
    "printing",
    Printing,
    [
        json_option,
        option(
            "--report",
            type=FILE,
            metavar="FILE",
            group="Output",
            help="Also write the report, even if a gate fails.",
        ),
    ],
)


run_options = bundle(
    "run",
    Run,
    [
        number("--seed", 0, "Same seed, same result.", group="Run", least=0),
        option(
            "--device",
            type=Device(),
            default="auto",
            show_default=True,
            group="Run",
            help="auto, cpu, cuda or cuda:N.",
        ),
        number("--batch-size", 128, "Images at a time.", group="Run"),
        number(
            "--workers",
            0,
            "Processes that read images or sample; 0 uses threads.",
            group="Run",
            least=0,
        ),
        option("-q", "--quiet", is_flag=True, group="Run", help="No progress."),
        option(
            "-v", "--verbose", is_flag=True, group="Run", help="Every strength tried, all layers."
        ),
        option(
            "--traceback",
            is_flag=True,
            expose_value=False,
            group="Run",
            help="Show where an error came from.",
        ),
    ],
)
