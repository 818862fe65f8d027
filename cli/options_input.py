"""Which network and which images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .command import option
from .options import FILE, Pairs, bundle
from .params import KeyValue, Names, Numbers, Share, Whole


@dataclass(frozen=True)
class ModelChoice:
    """Which network, and how its images are prepared."""

    spec: str | None
    checkpoint: Path | None
    model_arg: Pairs
    input_size: int | None
    crop_pct: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    class_names: tuple[str, ...] | None
    allow_pickle: bool


@dataclass(frozen=True)
class DataChoice:
    """Which images."""

    demo: bool
    data: str | None
    limit: int | None
    group_column: tuple[str, ...]
    max_unreadable: float


model_options = bundle(
    "model",
    ModelChoice,
    [
        option(
            "--model",
            "spec",
            metavar="SPEC",
            group="Model",
            help="timm:NAME, torchvision:NAME, module:PKG.MOD:FACTORY or a checkpoint folder.",
        ),
        option(
            "--checkpoint",
            type=FILE,
            metavar="FILE",
            group="Model",
            help="Its weights (.safetensors).",
        ),
        option(
            "--model-arg",
            type=KeyValue(),
            multiple=True,
            group="Model",
            help="Argument of the model's constructor; repeat for several.",
        ),
        option(
            "--input-size",
            type=Whole(1),
            metavar="N",
            group="Model",
            help="Resize images to N pixels, without a crop.",
        ),
        option("--crop-pct", type=Share(), group="Model", help="Share kept by the central crop."),
        option("--mean", type=Numbers(), group="Model", help="Mean by channel, comma-separated."),
        option(
            "--std", type=Numbers(), group="Model", help="Deviation by channel, comma-separated."
        ),
        option(
            "--class-names",
            type=Names(),
            group="Model",
            help="All classes in the model's order, comma-separated.",
        ),
        option("--allow-pickle", is_flag=True, group="Model", help="Also read .pt and .pth files."),
    ],
)


data_options = bundle(
    "data",
    DataChoice,
    [
        option("--demo", is_flag=True, group="Data", help="The built-in checkpoint and data."),
        option(
            "--data",
            metavar="SPEC",
            group="Data",
            help="folder:DIR, csv:FILE, npz:FILE, idx:DIR or torchvision:NAME; .zip works too.",
        ),
        option(
            "--limit",
            type=Whole(1),
            metavar="N",
            group="Data",
            help="Images per split, drawn by class.",
        ),
        option(
            "--group-column",
            type=Names(),
            default="group",
            show_default=True,
            group="Data",
            help="CSV column with the group.",
        ),
        option(
            "--max-unreadable",
            type=Share(),
            default=0.01,
            show_default=True,
            group="Data",
            help="Largest share of unreadable images.",
        ),
    ],
)


hold_out_option = option(
    "--hold-out",
    type=Share(),
    default=0.0,
    show_default=True,
    group="Data",
    help="Share of the training images kept from scoring, for the search.",
)
