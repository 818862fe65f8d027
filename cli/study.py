"""`modeledit study ...`: one verb per study, loaded when used."""

from __future__ import annotations

from importlib import import_module

import click

from .command import Tool

EXAMPLE = "modeledit study distributions --demo"
STUDIES = ("distributions", "pruning", "disturbances")


class Studies(Tool):
    """The studies, whose help begins with an example like every verb's."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = import_module(f".study_{cmd_name}", __package__)
        return module.command  # type: ignore[no-any-return]

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_usage(ctx, formatter)
        formatter.write(f"Example: {EXAMPLE}\n")


@click.group(
    "study",
    cls=Studies,
    sections={"Studies": STUDIES},
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
def command() -> None:
    """Repeat an analysis of the papers on your network and images.

    Tables and pictures go to a folder.
    """
