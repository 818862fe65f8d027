"""From the chosen options to a network and images. torch comes in here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from modeledit.errors import ModelEditError

from .options_input import DataChoice, ModelChoice
from .options_measure import Attacking

if TYPE_CHECKING:
    from modeledit.attacks import Attack
    from modeledit.data import Data
    from modeledit.eval.aspects import Aspects
    from modeledit.models import LoadedModel, Preprocessing
    from modeledit.targets import Target

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
    network: LoadedModel,
    images: Data,
    attack: Attack | None,
    attacking: Attacking,
    positive: str | None,
) -> Aspects:
    """What to measure besides the classes. positive: the class to compare groups by, if at all."""
    from modeledit.eval.aspects import Aspects
    from modeledit.targets import class_index

    return Aspects(
        positive=None if positive is None else class_index(positive, images.class_names),
        attack=attack,
        images=attacking.images,
        queries=attacking.queries,
        rival=None if attacking.transfer is None else _rival(network, attacking.transfer),
    )


def _rival(network: LoadedModel, named: str) -> LoadedModel:
    """The network of --transfer: a spec, or weights for the architecture that is measured."""
    from modeledit.checkpoint import read_state
    from modeledit.models import load_model

    if Path(named).is_file():
        found = replace(network, module=network.fresh(read_state(Path(named))), spec=named)
    else:
        found = load_model(named)
    theirs, ours = found.num_classes, network.num_classes
    if theirs is not None and ours is not None and theirs != ours:
        raise ModelEditError(
            f"--transfer {named} has {theirs} classes, the model {ours}: images that are to be "
            "taken from it need the same ones"
        )
    return found


def target(text: str | None, images: Data) -> Target | None:
    """A target by its text; None for none."""
    from modeledit import targets

    return None if text is None else targets.parse(text, images.class_names)


def paths(model: ModelChoice, data: DataChoice, *others: Path) -> list[Path]:
    """The user's files and folders that a run reads and so must not write."""
    named = [model.spec, model.checkpoint, (data.data or "").partition(":")[2]]
    found = [Path(name) for name in named if name]
    return [path for path in (*found, *others) if path.exists()]
