"""Which disturbances, and what is looked at: the options of `modeledit study disturbances`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from .command import option
from .options import FILE, bundle, choice, number
from .options_study import Choices, Shares
from .params import Names

KINDS = ("white-background", "style", "texture", "blur", "patch-shuffle", "edges", "colour-swap")


@dataclass(frozen=True)
class Disturbing:
    """Which disturbances, and what they need."""

    disturb: tuple[str, ...]
    images: int
    masks: Path | None
    style: Path | None
    texture: tuple[float, ...]
    transfer_steps: int
    features: str | None
    features_checkpoint: Path | None


@dataclass(frozen=True)
class Looking:
    """How the influence is computed, and what is shown of it."""

    training_images: int
    solver: Any
    layers: tuple[str, ...] | None
    profile: Any
    distance: Any
    show: int
    side: int
    evaluations: int


disturbing_options = bundle(
    "disturbing",
    Disturbing,
    [
        option(
            "--disturb",
            type=Choices(KINDS),
            default=",".join(KINDS),
            group="Data",
            help="Comma-separated: white-background, style, texture, blur, patch-shuffle, "
            "edges, colour-swap; default: all.",
        ),
        number("--images", 24, "Test images, drawn by class.", group="Data"),
        option(
            "--masks",
            type=FILE,
            metavar="DIR",
            group="Data",
            help="Masks named like the test images, light on the object.",
        ),
        option(
            "--style",
            type=FILE,
            metavar="FILE",
            group="Data",
            help="A picture whose style is taken; else brush strokes.",
        ),
        option(
            "--texture",
            type=Shares(),
            default="0.5,1",
            show_default=True,
            group="Data",
            help="Shares of the texture, a variant each.",
        ),
        number("--transfer-steps", 60, "Steps of style and texture transfer.", group="Data"),
        option(
            "--features",
            metavar="SPEC",
            group="Model",
            help="Network whose features style and texture match; else the model.",
        ),
        option(
            "--features-checkpoint",
            type=FILE,
            metavar="FILE",
            group="Model",
            help="Its weights (.safetensors).",
        ),
    ],
)


looking_options = bundle(
    "looking",
    Looking,
    [
        number(
            "--training-images", 200, "Training images whose influence is computed.", group="Data"
        ),
        choice(
            "--solver",
            ["ekfac", "cg", "lissa", "exact"],
            "ekfac, cg, lissa or exact.",
            group="Scoring",
            metavar="NAME",
        ),
        option(
            "--layers",
            type=Names(),
            group="Scoring",
            help="Of the influence; else all convolutions and linear ones.",
        ),
        option(
            "--profile",
            type=click.Choice(["intra", "inter", "both"]),
            metavar="WHAT",
            default="both",
            show_default=True,
            group="Scoring",
            help="Clustered: influence of the same class, of others, or both.",
        ),
        choice(
            "--distance",
            ["correlation", "euclidean"],
            "Of the clustering: correlation or euclidean.",
            group="Scoring",
            metavar="NAME",
        ),
        number("--show", 2, "Test images shown in detail.", group="Output"),
        number("--side", 6, "Regions along a side of an image.", group="Scoring", least=2),
        number(
            "--evaluations",
            400,
            "Coalitions of regions that are evaluated.",
            group="Scoring",
            least=2,
        ),
    ],
)
