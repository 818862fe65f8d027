"""What is measured besides the classes: groups of people, and attacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from modeledit.errors import ModelEditError

from .command import option
from .options import Decorator, Pairs, bundle, number
from .params import Epsilon, KeyValue, Names, Plugin, Whole

if TYPE_CHECKING:
    from modeledit.attacks import Attack

ATTACK_OPTIONS = ("eps", "norm", "steps", "step", "targeted", "attack_arg")
ATTACK_FLAGS = (*ATTACK_OPTIONS, "images", "queries", "transfer")


@dataclass(frozen=True)
class Crafting:
    """Which attack, its options where they were given, and of how many images it makes others."""

    attack: str | None
    eps: float | None
    norm: str | None
    steps: int | None
    step: float | None
    targeted: bool
    attack_arg: Pairs
    images: int

    @property
    def stated(self) -> bool:
        """Whether anything was said of the attack itself."""
        source = click.get_current_context().get_parameter_source
        names = ("attack", *ATTACK_OPTIONS)
        return any(source(name) != click.core.ParameterSource.DEFAULT for name in names)

    def chosen(self, default: str | None = None) -> Attack | None:
        """The attack with its options, an unknown one refused by name; `default`, or None, if none
        was named."""
        name = self.attack or default
        if name is None:
            _refuse_stray()
            return None
        from modeledit import plugins

        given = {name: getattr(self, name) for name in ("eps", "norm", "steps", "step")}
        options: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
        if self.targeted:
            options["targeted"] = True
        options.update(self.attack_arg)
        if options.get("norm") == "l2" and "eps" not in options:
            raise ModelEditError(
                "--norm l2 measures all pixels together: give its --eps, such as 1 (8/255 is one "
                "for linf)"
            )
        try:
            return plugins.create("attacks", name, options)  # type: ignore[no-any-return]
        except (TypeError, ValueError) as error:  # an option of the wrong kind
            raise ModelEditError(f"{name} does not take {options}: {error}") from error


@dataclass(frozen=True)
class Attacking(Crafting):
    """How it is measured, too."""

    queries: int
    transfer: str | None

    def chosen(self, default: str | None = None) -> Attack | None:
        """See the base."""
        source = click.get_current_context().get_parameter_source("queries")
        if self.attack == "square" and source == click.core.ParameterSource.COMMANDLINE:
            raise ModelEditError(
                "--queries is of the black-box attack that checks others, and square is that one: "
                "use --attack-arg queries=N"
            )
        return super().chosen(default)


def _refuse_stray() -> None:
    flag = attack_flag(ATTACK_FLAGS)
    if flag is not None:
        raise ModelEditError(f"{flag} goes with an attack: name one with --attack, or drop it")


def attack_flag(names: Sequence[str] = ("attack", *ATTACK_FLAGS)) -> str | None:
    """The first option of attacks on the command line."""
    source = click.get_current_context().get_parameter_source
    for name in names:
        if source(name) == click.core.ParameterSource.COMMANDLINE:
            flag = {"images": "attack_images", "step": "step_size"}.get(name, name)
            return "--" + flag.replace("_", "-")
    return None


class Aspect(Names):
    """`groups`, `attack`, or both with a comma."""

    name = "what"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        names = super().convert(value, param, ctx)
        for name in names:
            if name not in ("groups", "attack"):
                self.fail(f"{name!r} cannot be measured: use groups, attack or both", param, ctx)
        return names


measure_option = option(
    "--measure",
    type=Aspect(),
    metavar="WHAT",
    default=(),
    group="Data",
    help="Also measure groups, attack or both (comma-separated).",
)


positive_option = option(
    "--positive",
    metavar="LABEL",
    default="1",
    show_default=True,
    group="Data",
    help="Class whose rates groups are compared by.",
)


def refuse_stray_positive(groups: bool, how: str) -> None:
    """--positive says nothing where no groups are compared; `how` is the option that does."""
    given = click.get_current_context().get_parameter_source("positive")
    if not groups and given == click.core.ParameterSource.COMMANDLINE:
        raise ModelEditError(f"--positive goes with groups: compare them with {how}, or drop it")


def crafting_options(default: str | None) -> Decorator:
    """The options of making adversarial images; `default` as in `attack_options`."""
    return bundle("crafting", Crafting, _crafting(default))


def attack_options(default: str | None) -> Decorator:
    """The options of attacks; `default` is the attack that is tried without being named."""
    return bundle(
        "attacking",
        Attacking,
        [
            *_crafting(default),
            number(
                "--queries",
                1000,
                "Of a black-box attack that checks it; 0 for none.",
                group="Attack",
                least=0,
            ),
            option(
                "--transfer",
                metavar="SPEC",
                group="Attack",
                help="Also try images made on this other model, or weights FILE of the same kind.",
            ),
        ],
    )


def _crafting(default: str | None) -> list[Decorator]:
    return [
        option(
            "--attack",
            type=Plugin("attacks"),
            metavar="NAME",
            default=default,
            show_default=default is not None,
            group="Attack",
            help="Try this attack; see `modeledit list attacks`.",
        ),
        option(
            "--eps",
            type=Epsilon(),
            metavar="SIZE",
            group="Attack",
            help="Largest change of a pixel in 0..1, such as 8/255.",
        ),
        option(
            "--norm",
            type=click.Choice(["linf", "l2"]),
            metavar="NORM",
            group="Attack",
            help="What --eps measures: linf (any pixel) or l2 (all together).",
        ),
        option("--steps", type=Whole(1), metavar="N", group="Attack", help="Gradients per start."),
        option(
            "--step-size",
            "step",
            type=Epsilon(),
            metavar="SIZE",
            group="Attack",
            help="Length of a step, in the unit of --eps.",
        ),
        option(
            "--targeted",
            is_flag=True,
            group="Attack",
            help="Towards a random other class, not just away from the true one.",
        ),
        option(
            "--attack-arg",
            type=KeyValue(),
            multiple=True,
            group="Attack",
            help="Another option of the attack; repeatable.",
        ),
        option(
            "--attack-images",
            "images",
            type=Whole(1),
            metavar="N",
            default=500,
            show_default=True,
            group="Attack",
            help="Images attacked, at most, drawn by class.",
        ),
    ]
