"""What the verbs share: help in named groups, an example each, and verbs loaded when used."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

import click

GROUPS = ("Model", "Data", "Attack", "Scoring", "Editing", "Gates", "Output", "Run")
COLUMN = 24  # where the explanations begin, the same in every group
F = TypeVar("F", bound=Callable[..., Any])


class Option(click.Option):
    """An option that is listed in the help under its group."""

    def __init__(self, *args: Any, group: str, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.group = group


def option(*names: str, group: str, **attrs: Any) -> Callable[[F], F]:
    """`click.option` with a help group."""
    return click.option(*names, cls=Option, group=group, **attrs)


class Verb(click.Command):
    """A command whose help shows an example first and its options by group."""

    def __init__(self, *args: Any, example: str, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.example = example

    @property
    def configurable(self) -> bool:
        """Whether modeledit.toml holds defaults for it."""
        return any(getattr(param, "group", "") == "Model" for param in self.params)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if self.configurable and not set(args) & set(ctx.help_option_names):
            from .settings import defaults

            ctx.default_map = defaults(ctx, args)
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_usage(ctx, formatter)
        formatter.write(f"Example: {self.example}\n")

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for group in GROUPS:
            rows = [
                (row[0].ljust(COLUMN), row[1])
                for param in self.get_params(ctx)
                if not isinstance(param, click.Argument)  # those are in the usage line
                and getattr(param, "group", "Run") == group
                and (row := param.get_help_record(ctx)) is not None
            ]
            if rows:
                with formatter.section(group):
                    formatter.write_dl(rows)


def verb(name: str, example: str) -> Callable[[Callable[..., Any]], Verb]:
    """Turns a function into a verb; its docstring is the help."""
    settings = {"help_option_names": ["-h", "--help"]}
    return click.command(name, cls=Verb, example=example, context_settings=settings)


class Tool(click.Group):
    """The top level: a verb is `command` in the module of its name, imported when used."""

    def __init__(self, *args: Any, sections: Mapping[str, Sequence[str]], **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.sections = sections

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        return [name for names in self.sections.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        module = import_module(f".{cmd_name.replace('-', '_')}", __package__)
        return module.command  # type: ignore[no-any-return]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        known = self.list_commands(ctx)
        if name in known or name.startswith("-"):
            return super().resolve_command(ctx, args)
        close = difflib.get_close_matches(name, known, 1)
        advice = f"did you mean {close[0]}?" if close else f"use one of {', '.join(known)}"
        raise click.UsageError(f"there is no verb {name!r}: {advice}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in self.sections.items():
            rows = []
            for name in names:
                found = self.get_command(ctx, name)
                rows.append((name, found.get_short_help_str(200) if found else ""))
            with formatter.section(title):
                formatter.write_dl(rows)
