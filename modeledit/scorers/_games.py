"""What scorers that play games of units share: the players, their pins, the images, the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from modeledit.checkpoint import identity, load_scores
from modeledit.data import Batch, Split
from modeledit.errors import ModelEditError
from modeledit.games import Floats, GameSpec, Metric, Reading, reading, sample
from modeledit.pins import Values
from modeledit.runtime import Runtime
from modeledit.scorers import Found, Job
from modeledit.scorers._options import refuse
from modeledit.surgery import record_means
from modeledit.targets import Accuracy, AttackSuccess, ForgetClass, GroupRecall, Target
from modeledit.types import Unit
from modeledit.units import Anatomy, Layer

Value = Literal["mean", "beta", "zero"]
EVERY: tuple[type[Target], ...] = (ForgetClass, Accuracy, GroupRecall, AttackSuccess)
UNKNOWN = torch.finfo(torch.float32).max  # a half width of which nothing is known yet


class Laid(Protocol):
    """Options that say what is played. layers: comma-separated patterns, "" for all."""

    @property
    def layers(self) -> str: ...

    @property
    def value(self) -> Value: ...

    @property
    def images(self) -> int: ...

    @property
    def calibration(self) -> int: ...

    @property
    def pins_from(self) -> str: ...


@dataclass(frozen=True)
class Table:
    """What is played: units of `layers`, pinned to `means`, on `batches`, worth their `reading`.

    The batches' indices are positions among the images that could be read. units: all of `layers`.
    """

    layers: tuple[str, ...]
    units: tuple[Unit, ...]
    means: Values
    batches: tuple[Batch, ...]
    reading: Reading

    def spec(self, job: Job, cache_mb: int) -> GameSpec:
        """The game, for any process to open, which keeps that much between evaluations."""
        return GameSpec(
            job.model,
            job.anatomy,
            self.layers,
            self.means,
            self.batches,
            (self.reading,),
            device=str(job.runtime.device),
            limit=cache_mb * 2**20,
        )

    def places(self, units: Sequence[Unit]) -> npt.NDArray[np.int64]:
        """Where some units stand among all."""
        at = {unit: place for place, unit in enumerate(self.units)}
        return np.array([at[unit] for unit in units], dtype=np.int64)


def lay(job: Job, metric: Metric, options: Laid) -> Table:
    """The table for a job's target."""
    names = matching(job.anatomy, options.layers)
    chosen = sample(job.split, job.target, options.images, job.runtime.seed)
    batches, positions = numbered(chosen, job.runtime)
    groups = None if chosen.groups is None else chosen.groups[positions]
    read = reading(job.target, metric, chosen.labels[positions], groups)
    units = tuple(Unit(n, i) for n in names for i in range(job.anatomy.layers[n].units))
    if options.pins_from:
        held: Values = shared(job.anatomy, Path(options.pins_from), names)
    else:
        held = constants(job, options.value, names, options.calibration)
    return Table(names, units, held, batches, read)


def check_pins(pins_from: str, value: Value) -> None:
    """Raise ModelEditError where both options name the constants."""
    refuse(
        bool(pins_from) and value != "mean",
        f"pins_from={pins_from!r} names the constants, so value={value!r} has no meaning: give one "
        "of the two",
    )


def numbered(
    split: Split, runtime: Runtime, start: int = 0
) -> tuple[tuple[Batch, ...], npt.NDArray[np.int64]]:
    """The batches, their images counted through from `start` on, and the positions of these in the
    split."""
    batches: list[Batch] = []
    positions: list[Tensor] = []
    for batch in split.batches(runtime):
        end = start + len(batch.labels)
        positions.append(batch.indices.cpu())
        batches.append(Batch(batch.images, batch.labels, torch.arange(start, end)))
        start = end
    return tuple(batches), torch.cat(positions).numpy()


def matching(anatomy: Anatomy, patterns: str) -> tuple[str, ...]:
    """The layers whose names one of the comma-separated shell patterns fits, in network order."""
    wanted = [pattern.strip() for pattern in patterns.split(",") if pattern.strip()]
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in anatomy.layers):
            raise ModelEditError(
                f"layers={pattern!r} fits no layer with units: the model has "
                f"{len(anatomy.layers)}, from {', '.join(list(anatomy.layers)[:3])} on"
            )
    return tuple(
        name
        for name in anatomy.layers
        if not wanted or any(fnmatchcase(name, pattern) for pattern in wanted)
    )


def constants(job: Job, value: Value, layers: Sequence[str], calibration: int) -> Values:
    """What pinned units are held at: "mean" of their outputs over `calibration` training images of
    all kinds; "beta", what their own bias or BatchNorm gives an input of 0 (of its running mean);
    "zero". Where nothing can hold another constant it is 0 in each case, so that all units play.
    """
    if value == "zero":
        return "zero"
    free = {name: job.anatomy.layers[name] for name in layers}
    bare = {n: torch.zeros(_shape(layer)) for n, layer in free.items() if layer.pin == "zero"}
    held = [name for name in layers if name not in bare]
    if value == "beta":
        found = {name: _bias(job.model, free[name]) for name in held}
    else:
        split = job.split.sample(min(calibration, len(job.split)), job.runtime.seed)
        found = record_means(job.model, split, held, job.runtime) if held else {}
    return {name: {**bare, **found}[name] for name in layers}


def shared(anatomy: Anatomy, path: Path, layers: Sequence[str]) -> dict[str, Tensor]:
    """The constants of a Scores file; one that was made for other layers is refused."""
    found = load_scores(path).pins
    for name in layers:
        want = _shape(anatomy.layers[name])
        if name not in found or tuple(found[name].shape) != want:
            have = f"holds {tuple(found[name].shape)}" if name in found else "has no constants"
            raise ModelEditError(
                f"{path} {have} for {name}, which has {want}: give scores of this model with "
                "value=mean, made for the same layers"
            )
    return {name: found[name] for name in layers}


def _shape(layer: Layer) -> tuple[int, ...]:
    return (layer.units, layer.width) if layer.width > 1 else (layer.units,)


def _bias(model: nn.Module, layer: Layer) -> Tensor:
    if layer.pin == "norm":
        mean: Tensor = model.get_submodule(layer.norm or "").running_mean  # type: ignore[assignment]
        return mean.detach().float().cpu()
    bias = model.get_parameter(layer.bias[0]).detach().float().cpu()
    return bias[layer.first : layer.first + layer.units * layer.width].reshape(_shape(layer))


def oriented(job: Job, values: Floats) -> Floats:
    """Larger = edited first: units that raise the metric, or for groups those that lower it."""
    return -values if isinstance(job.target, GroupRecall) else values


def found(
    job: Job,
    table: Table,
    units: Sequence[Unit],
    values: Floats,
    raw: Floats,
    header: Mapping[str, Any],
    half_width: Floats | None = None,
) -> Found:
    """The answer for every unit of the network; those that were no players count 0.

    values, raw, half_width: (n,), in the order of `units`.
    """
    played: Mapping[str, Tensor] = {} if isinstance(table.means, str) else table.means
    counts = table.reading.members.sum(1).tolist()
    described = {
        "metric": table.reading.metric,
        "images": dict(zip(table.reading.names, counts, strict=True)),
        "units_played": len(units),
        **({"pins": identity(dict(played))} if played else {}),
        **header,
    }

    def by_layer(numbers: Floats, otherwise: float = 0.0) -> dict[str, Tensor]:
        made = {
            name: torch.full((layer.units,), otherwise, dtype=torch.float64)
            for name, layer in job.anatomy.layers.items()
        }
        for unit, number in zip(units, numbers.tolist(), strict=True):
            made[unit.layer][unit.index] = number
        return made

    widths = {}
    if half_width is not None:
        widths = by_layer(np.minimum(half_width, UNKNOWN), UNKNOWN)
    return Found(by_layer(values), by_layer(raw), described, half_width=widths, pins=played)
