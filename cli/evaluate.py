"""`modeledit evaluate`."""

from __future__ import annotations

from dataclasses import replace

import click
from click.core import ParameterSource

from modeledit.errors import ModelEditError

from . import inputs, making
from .command import option, verb
from .errors import PASSED
from .files import check
from .finish import files, save_report
from .options_input import DataChoice, ModelChoice, data_options, model_options
from .options_measure import Attacking, attack_options, positive_option, refuse_stray_positive
from .options_run import Printing, Run, force_option, printing_options, run_options
from .show import draw, emit


@verb("evaluate", "modeledit evaluate modeledit-out --demo --forget 3")
@click.argument("network", metavar="[MODEL]", required=False)
@model_options
@data_options
@option(
    "--forget",
    multiple=True,
    metavar="CLASS",
    group="Data",
    help="Measure this class apart from the others; repeat for several.",
)
@option(
    "--groups",
    is_flag=True,
    group="Data",
    help="Compare the groups of --group-column: recall, fairness metrics.",
)
@positive_option
@attack_options(None)
@printing_options
@force_option
@run_options
def command(
    network: str | None,
    forget: tuple[str, ...],
    groups: bool,
    positive: str,
    attacking: Attacking,
    model: ModelChoice,
    data: DataChoice,
    printing: Printing,
    force: bool,
    run: Run,
) -> int:
    """Measure a model on the test split; MODEL is the same as --model. Writes no checkpoint."""
    if network is not None:
        source = click.get_current_context().get_parameter_source("spec")
        if source == ParameterSource.COMMANDLINE:
            raise ModelEditError(f"two models, {network} and --model {model.spec}: name one")
        model = replace(model, spec=network)
    inputs.check(model, data)
    attack = attacking.chosen()
    refuse_stray_positive(groups, "--groups")
    check(files(("--report", printing.report)), inputs.paths(model, data), force=force)
    runtime = making.runtime(run, as_json=printing.as_json)
    loaded, images = inputs.load(model, data, run.seed)

    from modeledit import pipeline

    target = pipeline.forget_target(forget, images) if forget else None
    aspects = inputs.aspects(loaded, images, attack, attacking, positive if groups else None)
    report = pipeline.evaluate(loaded, images, target, runtime, aspects)
    save_report(report, printing)
    if printing.as_json:
        emit(report.to_json())
        return PASSED
    from .show_measurement import evaluation

    draw(*evaluation(report))
    return PASSED
