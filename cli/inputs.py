"""From the chosen options to a network, images, a runtime and plugins. torch comes in here."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from modeledit.defaults import AUTO
from modeledit.errors import ModelEditError

from .options_edit import Editing, Scoring
from .options_input import DataChoice, ModelChoice
from .options_measure import Attacking
from .options_run import Run

if TYPE_CHECKING:
    from modeledit.attacks import Attack
    from modeledit.data import Data
    from modeledit.editors import Editor
    from modeledit.eval.aspects import Aspects
    from modeledit.models import LoadedModel, Preprocessing
    from modeledit.reuse import Task
    from modeledit.runtime import Runtime
    from modeledit.scorers import Scorer
    from modeledit.targets import Target
    from modeledit.types import Scores

MODEL_FLAGS = (
    "checkpoint",
    "model_arg",
    "input_size",
    "crop_pct",
    "mean",
    "std",
    "class_names",
    "allow_pickle",
)
PARTIAL = ".partial"  # what a sampling run keeps beside its output
DATA_FLAGS = ("group_column", "max_unreadable")


def check(model: ModelChoice, data: DataChoice) -> None:
    """Refuse an incomplete or contradictory choice, before torch is imported."""
    missing = [f for f, v in (("--model", model.spec), ("--data", data.data)) if v is None]
    if missing and not data.demo:
        raise ModelEditError(
            f"{' and '.join(missing)} not given: name your own, try the built-in ones with --demo, "
            "or write a modeledit.toml with `modeledit init`"
        )
    if model.checkpoint is not None and not model.checkpoint.is_file():
        raise ModelEditError(
            f"{model.checkpoint} is not a file: give a checkpoint in safetensors format"
        )
    if data.demo and not missing:
        raise ModelEditError("--demo has nothing to add to --model and --data: leave it out")
    if model.spec is None:
        _refuse(MODEL_FLAGS, "--model")
    if data.data is None:
        _refuse(DATA_FLAGS, "--data")


def _refuse(names: Sequence[str], needed: str) -> None:
    ctx = click.get_current_context()
    for name in names:
        if ctx.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            flag = "--" + name.replace("_", "-")
            raise ModelEditError(f"{flag} goes with {needed}, and --demo brings its own: drop one")


def load(model: ModelChoice, data: DataChoice, seed: int) -> tuple[LoadedModel, Data]:
    """The chosen network and images; --demo supplies what was not named."""
    if model.spec is None and data.data is None:
        from modeledit import demo

        return demo.load(data.limit, seed)
    loaded = load_network(model) if model.spec is not None else _demo_network()
    if data.data is None:
        return loaded, _demo_data(loaded.preprocessing, data.limit, seed)
    from modeledit.data import load_data

    images = load_data(
        data.data,
        loaded.preprocessing,
        num_classes=loaded.num_classes,
        class_names=loaded.class_names,
        group_column=data.group_column,
        limit=data.limit,
        seed=seed,
        max_unreadable=data.max_unreadable,
    )
    return loaded, images


def load_network(model: ModelChoice) -> LoadedModel:
    """The network that --model names."""
    from modeledit.models import load_model

    return load_model(
        model.spec or "",
        model.checkpoint,
        args=dict(model.model_arg),
        mean=model.mean,
        std=model.std,
        input_size=model.input_size,
        crop_pct=model.crop_pct,
        class_names=model.class_names,
        allow_pickle=model.allow_pickle,
    )


def _demo_network() -> LoadedModel:
    from modeledit import demo

    return demo.load()[0]


def _demo_data(preprocessing: Preprocessing, limit: int | None, seed: int) -> Data:
    from modeledit import demo

    images = demo.digits(preprocessing)
    if limit is None:
        return images
    splits = {name: getattr(images, name) for name in ("train", "validation", "test")}
    return replace(images, **{name: s.sample(limit, seed) for name, s in splits.items()})


def aspects(
    images: Data, attack: Attack | None, attacking: Attacking, positive: str | None
) -> Aspects:
    """What to measure besides the classes. positive: the class to compare groups by, if at all."""
    from modeledit.eval.aspects import Aspects
    from modeledit.models import load_model
    from modeledit.targets import class_index

    return Aspects(
        positive=None if positive is None else class_index(positive, images.class_names),
        attack=attack,
        images=attacking.images,
        queries=attacking.queries,
        rival=None if attacking.transfer is None else load_model(attacking.transfer),
    )


def target(text: str | None, images: Data) -> Target | None:
    """A target by its text; None for none."""
    from modeledit import targets

    return None if text is None else targets.parse(text, images.class_names)


def paths(model: ModelChoice, data: DataChoice, *others: Path) -> list[Path]:
    """The user's files and folders that a run reads and so must not write."""
    named = [model.spec, model.checkpoint, (data.data or "").partition(":")[2]]
    found = [Path(name) for name in named if name]
    return [path for path in (*found, *others) if path.exists()]


def runtime(run: Run, *, as_json: bool) -> Runtime:
    """Device, batches, seed and progress."""
    import torch

    from modeledit.runtime import Runtime

    from .progress import progress

    name = run.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ModelEditError(
            f"--device {name}: torch finds {count} CUDA devices here: use --device cpu or auto"
        )
    return Runtime(
        device=device,
        batch_size=run.batch_size,
        workers=run.workers,
        seed=run.seed,
        progress=progress(wanted=not (run.quiet or as_json)),
    )


def sampling(scoring: Scoring, runtime: Runtime, output: Path, *, force: bool) -> Runtime:
    """The runtime with --budget, and with the file beside the output that --resume continues.

    What an interrupted run left there is neither used nor overwritten without being told to.
    """
    from modeledit import plugins
    from modeledit.shapley.running import Budget

    budget = Budget(*scoring.budget) if scoring.budget is not None else None
    if scoring.scorer == AUTO or not plugins.load("scorers", scoring.scorer).sampled:
        asked = {"--budget": budget, "--resume": scoring.resume, "--ray": scoring.ray}
        flag = next((flag for flag, value in asked.items() if value), None)
        if flag is not None:
            raise ModelEditError(
                f"{flag} is for scorers that sample, which {scoring.scorer} does not: drop it, or "
                "use --scorer neuron-shapley"
            )
        return runtime
    kept = output.with_name(output.name + PARTIAL)
    if kept.exists() and not scoring.resume:
        if not force:
            raise ModelEditError(
                f"{kept} holds an interrupted run: continue it with --resume, or begin anew with "
                "--force"
            )
        kept.unlink()
    return replace(runtime, ray=scoring.ray, budget=budget, resume=kept)


def sampled(runtime: Runtime) -> None:
    """The result is safe: what --resume would need is not needed any more."""
    if runtime.resume is not None:
        runtime.resume.unlink(missing_ok=True)


def scorer(scoring: Scoring) -> Scorer:
    """The chosen scorer with its options."""
    made: Scorer = _create("scorers", scoring.scorer, scoring.options())
    return made


def scorers(task: str, scoring: Scoring, editing: Editing) -> dict[str, Scorer]:
    """{name: the chosen scorer}, or the candidates of the task for "auto"."""
    from modeledit import candidates

    if scoring.scorer != AUTO:
        return {scoring.scorer: scorer(scoring)}
    if scoring.options():
        raise ModelEditError(
            "--scorer auto brings its own options: name one, such as --scorer stepwise-peps, with "
            "--scorer-arg and --granularity"
        )
    found = candidates.named(AUTO, task)
    candidates.check(found, editing.strength)
    return found


def scores(path: Path, task: Task) -> Scores:
    """Those of a file, if the task judges what they are for."""
    from modeledit import reuse
    from modeledit.checkpoint import load_scores

    found = load_scores(path)
    reuse.check(found, task, shlex.quote(str(path)))
    return found


def refuse_scoring() -> None:
    """Nothing but --scores may be said of scoring where scores are given."""
    ctx = click.get_current_context()
    for param in ctx.command.params:
        given = ctx.get_parameter_source(param.name or "") == ParameterSource.COMMANDLINE
        scoring = getattr(param, "group", "") == "Scoring" or param.name == "save_scores"
        if given and scoring and param.name != "scores":
            raise ModelEditError(
                f"{param.opts[-1]} is for scoring, and --scores brings scores: drop one"
            )


def check_scores(found: Scores, network: LoadedModel, images: Data) -> None:
    """Refuse those of another model or of other images."""
    from modeledit import reuse
    from modeledit.judging import Baseline

    reuse.check_origin(found, Baseline(network, images))


def attack_of(found: Scores) -> Attack | None:
    """The attack that scores were made for, where they say so."""
    from modeledit import reuse

    return reuse.attack_of(found)


def editor(editing: Editing) -> Editor:
    """The chosen editor with its options."""
    made: Editor = _create("editors", editing.editor, editing.options())
    return made


def _create(kind: Any, name: str, options: dict[str, Any]) -> Any:
    from modeledit import plugins

    try:
        return plugins.create(kind, name, options)
    except (TypeError, ValueError) as error:  # an option of the wrong kind, such as samples='many'
        raise ModelEditError(f"{name} does not take {options}: {error}") from error
