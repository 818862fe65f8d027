"""`modeledit study distributions`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeledit.errors import ModelEditError

from .command import option, verb
from .options import FILE, bundle, choice, number
from .options_study import Radii, target_option
from .study_job import Study, study_options

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
        number("--inputs", 10, "Training images that are differentiated.", group="Scoring"),
        number("--samples", 20, "Perturbations of the parameters.", group="Scoring"),
        option(
            "--eps",
            type=Radii(),
            default="1,10",
            show_default=True,
            group="Scoring",
            help="Radii of the perturbations.",
        ),
        choice(
            "--f",
            ["margin", "logit", "loss"],
            "What is differentiated: margin, logit or loss.",
            group="Scoring",
        ),
        choice(
            "--neighbourhood",
            ["joint", "tensor"],
            "What moves: joint (all tensors) or one tensor at a time.",
            group="Scoring",
        ),
        option(
            "--partly",
            type=FILE,
            metavar="FILE",
            group="Model",
            help="A partly trained checkpoint (.safetensors).",
        ),
        number(
            "--steps",
            40,
            "Without one: train so many batches; 0 leaves it out.",
            group="Model",
            least=0,
        ),
    ],
)


@verb("distributions", "modeledit study distributions --demo")
@study_options(
    "distributions", target_option(default="accuracy", show_default=True), amount_options
)
def command(study: Study, target: str, amount: Amount) -> int:
    """Distributions of PEPS's measures, trained, partly trained, random.

    With fits to known families, and a test of each layer, trained against random."""
    if amount.partly is not None and not amount.partly.exists():
        raise ModelEditError(f"--partly {amount.partly} does not exist: name a checkpoint")
    ready = study.ready(amount.partly)
    network, images = ready.network, ready.images

    from modeledit import targets
    from modeledit.checkpoint import read_state
    from modeledit.study import distributions, networks
    from modeledit.study.distribution_figures import figures

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
    start = networks.untrained(network.module, study.run.seed)
    if amount.partly is not None:
        compared["partly trained"] = network.fresh(read_state(amount.partly))
    elif amount.steps:
        compared["partly trained"] = networks.partly_trained(
            start, images.train, amount.steps, ready.runtime
        )
    compared[distributions.UNTRAINED] = start
    found = distributions.study(compared, images.train, behaviour, settings, ready.runtime)
    partly = "checkpoint" if amount.partly else f"{amount.steps} steps"
    header = {**found.header, "partly": partly}
    shown = _summary(found)
    return study.finish(ready, header, found.tables(), figures(found), "networks", shown)


def _summary(found: Distributions) -> list[Any]:
    """Accuracies, the closest family of each distribution, and the tensors that differ."""
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
        "measure", "per", "eps", "tensors", "differ", "median |delta|"
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
        "\ntrained against random: tensors that differ (Mann-Whitney, Holm's p < 0.05),\n"
        "and the size of Cliff's delta",
        differing,
    ]
