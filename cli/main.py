"""The program: `modeledit VERB ...`, its exit codes and its one-line errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from .command import Tool
from .errors import complain, interrupted
from .show import emit

NAME = "modeledit"
COMPLETE = "_MODELEDIT_COMPLETE"  # the variable with which a shell asks for completions
SECTIONS = {
    "Edit": (
        "unlearn",
        "repair",
        "harden",
        "score",
        "merge-scores",
        "edit",
        "evaluate",
        "picture",
        "study",
    ),
    "Checkpoints": ("apply", "revert", "diff", "inspect", "verify"),
    "Set up": ("list", "init", "completion"),
}


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        import modeledit

        emit(f"{NAME} {modeledit.__version__}\n")
        ctx.exit()


@click.group(
    NAME,
    cls=Tool,
    sections=SECTIONS,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_version, help="Version."
)
@click.pass_context
def tool(ctx: click.Context) -> None:
    """Score the weights of a trained vision classifier for a behaviour, edit the responsible ones,
    measure, and write a checkpoint that can be reverted.

    \b
    modeledit unlearn --class 3 --demo
    modeledit evaluate modeledit-out --demo --forget 3
    modeledit revert modeledit-out -o restored

    Exit codes: 0 done and gates passed, 1 a gate failed, 2 bad usage or input, 130 interrupted.
    """
    if ctx.invoked_subcommand is None:
        emit(ctx.get_help() + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; nothing escapes as a traceback."""
    args = list(sys.argv[1:] if argv is None else argv)
    written: list[Path] = []
    try:
        if COMPLETE in os.environ:
            return _complete(os.environ[COMPLETE])
        with tool.make_context(NAME, args, obj=written) as ctx:
            return tool.invoke(ctx) or 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except (KeyboardInterrupt, click.Abort):
        return interrupted(written)
    except Exception as error:
        return complain(error, args)


def _complete(instruction: str) -> int:
    from click.shell_completion import shell_complete

    return shell_complete(tool, {}, NAME, COMPLETE, instruction)


if __name__ == "__main__":
    sys.exit(main())
