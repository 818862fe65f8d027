"""`modeledit study distributions`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modeledit.errors import ModelEditError

from . import inputs
from .command import option, verb
from .errors import PASSED
from .options import FILE, bundle
from .options_input import DataChoice, ModelChoice, data_options, model_options
from .options_run import Run, force_option, json_option, run_options
from .options_study import Radii, check, output_option, target_option, write, wrote
from .params import Whole
from .show import draw, emit_json

if TYPE_CHECKING:
    from modeledit.study.distributions import Distributions


@dataclass(frozen=True)
class Amount:
    """How much is looked at, and the network between untrained and trained."""

    inputs: int
    samples: int
    eps: tuple[float, ...]
    f: Any
    neighbourhood: Any
    partly: Path | None
    steps: int


amount_options = bundle(
    "amount",
    Amount,
    [
        option(
            "--inputs",
            type=Whole(1),
            metavar="N",
            default=10,
            show_default=True,
            group="Scoring",
            help="Training images that are differentiated.",
        ),
        option(
            "--samples",
            type=Whole(1),
            metavar="N",
            default=20,
            show_default=True,
            group="Scoring",
            help="Perturbations of the parameters.",
        ),
        option(
            "--eps",
            type=Radii(),
            default="1,10",
            show_default=True,
            group="Scoring",
            help="Radii of the perturbations.",
        ),
        option(
            "--f",
            type=click.Choice(["margin", "logit", "loss"]),
            metavar="WHAT",
            default="margin",
            show_default=True,
            group="Scoring",
            help="What is differentiated: margin, logit or loss.",
        ),
        option(
            "--neighbourhood",
            type=click.Choice(["joint", "tensor"]),
            metavar="WHAT",
            default="joint",
            show_default=True,
            group="Scoring",
            help="What moves: joint (all tensors) or one tensor at a time.",
        ),
        option(
            "--partly",
            type=FILE,
            metavar="FILE",
            group="Model",
            help="A partly trained checkpoint (.safetensors).",
        ),
        option(
            "--steps",
            type=Whole(0),
            metavar="N",
            default=40,
            show_default=True,
            group="Model",
            help="Without one: train so many batches; 0 leaves it out.",
        ),
    ],
)


@verb("distributions", "modeledit study distributions --demo")
@model_options
@data_options
@target_option(default="accuracy", show_default=True)
@amount_options
@output_option("modeledit-distributions")
@json_option
@force_option
@run_options
def command(
    target: str,
    output: Path,
    model: ModelChoice,
    data: DataChoice,
    amount: Amount,
    as_json: bool,
    force: bool,
    run: Run,
) -> int:
    """Distributions of PEPS's measures, trained, partly trained, random.

    With fits to known families, and a test of each layer, trained against random."""
    inputs.check(model, data)
    read = inputs.paths(model, data, *([amount.partly] if amount.partly else []))
    check(output, read, force=force)
    if amount.partly is not None and not amount.partly.exists():
        raise ModelEditError(f"--partly {amount.partly} does not exist: name a checkpoint")
    runtime = inputs.runtime(run, as_json=as_json)
    network, images = inputs.load(model, data, run.seed)

    from modeledit import targets
    from modeledit.checkpoint import read_state
    from modeledit.judging import check_classes
    from modeledit.study import distributions, networks
    from modeledit.study.distribution_figures import figures

    check_classes(network, images)
    behaviour = targets.parse(target, images.class_names)
    if not isinstance(behaviour, targets.ForgetClass | targets.Accuracy):
        raise ModelEditError(
            f"--target: {behaviour} has no images of its own to take gradients on: use accuracy or "
            "class:NAME"
        )
    settings = distributions.Settings(
        amount.inputs, amount.samples, amount.eps, amount.f, amount.neighbourhood
    )
    compared = {distributions.TRAINED: network.module}
    start = networks.untrained(network.module, run.seed)
    if amount.partly is not None:
        compared["partly trained"] = network.fresh(read_state(amount.partly))
    elif amount.steps:
        compared["partly trained"] = networks.partly_trained(
            start, images.train, amount.steps, runtime
        )
    compared[distributions.UNTRAINED] = start
    found = distributions.study(compared, images.train, behaviour, settings, runtime)
    header = {
        **found.header,
        "model": network.spec,
        "data": images.spec,
        "partly": "checkpoint" if amount.partly else f"{amount.steps} steps",
    }
    written = write(output, header, found.tables(), figures(found), read, force=force)
    if as_json:
        emit_json({**header, "networks": found.tables()["networks"].records()})
        return PASSED
    draw(*_summary(found))
    wrote(output, written)
    return PASSED


def _summary(found: Distributions) -> list[Any]:
    """Accuracies, the closest family of each distribution, and the layers that differ."""
    from modeledit.study.gathering import MEASURES, PER

    from .show import percent
    from .show_measurement import table

    heads = table("network", "accuracy")
    for name, accuracy in found.accuracy.items():
        heads.add_row(name, percent(accuracy))
    closest = table(
        "measure",
        "per",
        "eps",
        *found.networks,
    )
    differing = table(
        "measure", "per", "eps", "layers", "differ", "median |delta|"
    )  # fmt: skip
    records = found.layers().records()
    for measure in MEASURES:
        for per in PER:
            for eps in found.settings.eps:
                shapes = [found.shapes[n, eps, measure, per] for n in found.networks]
                best = [
                    f"{s.fits[0].family} {s.fits[0].distance:.3f}" if s.fits else "-"
                    for s in shapes
                ]
                closest.add_row(measure, per, f"{eps:g}", *best)
                mine = [
                    r for r in records
                    if (r["measure"], r["per"], r["eps"]) == (measure, per, eps)
                ]  # fmt: skip
                sizes = sorted(abs(float(r["cliffs_delta"] or 0)) for r in mine)
                sure = sum(float(r["p_holm"] or 0) < 0.05 for r in mine)
                middle = sizes[len(sizes) // 2] if sizes else 0.0
                differing.add_row(
                    measure, per, f"{eps:g}", str(len(mine)), str(sure), f"{middle:.2f}"
                )
    return [
        heads,
        "\nclosest family of each distribution, and its Kolmogorov-Smirnov distance",
        closest,
        "\ntrained against random: layers that differ (Mann-Whitney, Holm's p < 0.05),\n"
        "and the size of Cliff's delta",
        differing,
    ]
