"""From what a user names to a network that is ready to run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modeledit.errors import CheckpointError, ModelError
from modeledit.models.from_timm import Timm, from_config
from modeledit.models.loaded import LoadedModel, checked_names
from modeledit.models.preprocessing import Preprocessing
from modeledit.models.sources import Factory, Source, Torchvision
from modeledit.models.weights import load_into, read_weights
from modeledit.units import logits

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_SOURCES: dict[str, type[Source]] = {s.scheme: s for s in (Timm, Torchvision, Factory)}


@dataclass(frozen=True)
class _Found:
    """What a spec stands for; a directory tells more than a name."""

    source: Source
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] | None = None
    weights: Path | None = None


def load_model(
    spec: str | Path,
    checkpoint: str | Path | None = None,
    *,
    args: Mapping[str, Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    input_size: int | tuple[int, int] | None = None,
    crop_pct: float | None = None,
    class_names: Sequence[str] | None = None,
    allow_pickle: bool = False,
) -> LoadedModel:
    """A network by name, with weights from a file; nothing is downloaded.

    spec: timm:NAME, torchvision:NAME, module:package.module:factory, or a directory with
          config.json and model.safetensors (timm's layout, or one that modeledit wrote).
    args: for the architecture; num_classes and in_chans are taken from the checkpoint otherwise.
    mean, std, input_size (pixels, no crop unless crop_pct says so): default to the model's own.
    """
    found = _find(str(spec), dict(args or {}))
    source = found.source
    path = Path(checkpoint) if checkpoint is not None else found.weights
    notes: tuple[str, ...] = ()
    if path is not None:
        path = path / WEIGHTS if path.is_dir() else path
        state, notes = read_weights(path, allow_pickle=allow_pickle)
        module, fitted = source.fitted(state)
        load_into(module, state, source=str(path), model=source.spec)
    elif isinstance(source, Factory):
        module, fitted = source.build(source.args), source.args
    else:
        raise ModelError(
            f"{source.spec} comes without weights (nothing is downloaded): give --checkpoint FILE"
        )
    own = found.preprocessing or source.preprocessing(module, fitted)
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    if own is None:
        own = _asked(source.spec, mean, std, size)
    preprocessing = own.overridden(mean, std, size, crop_pct)
    module.eval()
    example = torch.zeros(1, preprocessing.channels, *preprocessing.size)
    num_classes = logits(module, example).shape[1]
    names = checked_names(class_names or found.class_names, num_classes)
    return LoadedModel(
        module=module,
        spec=str(spec),
        args=fitted,
        preprocessing=preprocessing,
        num_classes=num_classes,
        class_names=names,
        checkpoint=path,
        config=source.config(module, fitted, preprocessing, names),
        notes=notes,
    )


def _asked(
    spec: str,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    size: tuple[int, int] | None,
) -> Preprocessing:
    """A neutral base for a model that has none of its own: the caller must give all numbers."""
    if mean is None or std is None or size is None:
        given = {"--mean": mean, "--std": std, "--input-size": size}
        missing = [flag for flag, value in given.items() if value is None]
        raise ModelError(
            f"{spec} does not say how its inputs are prepared: give {', '.join(missing)} "
            "(--mean and --std for pixels in 0..1, one per channel)"
        )
    channels = max(len(mean), len(std))
    return Preprocessing(size, (0.0,) * channels, (1.0,) * channels)


def _find(spec: str, args: dict[str, Any]) -> _Found:
    scheme, separator, name = spec.partition(":")
    if separator and scheme in _SOURCES:
        return _Found(_SOURCES[scheme](name, args))
    folder = Path(spec)
    if folder.is_dir():
        return _read_directory(folder, args)
    raise ModelError(
        f"model {spec!r} is neither a directory nor timm:NAME, torchvision:NAME or "
        "module:package.module:factory (hubs are not contacted)"
    )


def _read_directory(folder: Path, args: dict[str, Any]) -> _Found:
    config = _read_config(folder / CONFIG)
    weights = folder / WEIGHTS
    if "architecture" in config:
        source, names = from_config(config, args)
        return _Found(source, None, names, weights)
    model = (config.get("modeledit") or {}).get("model") or {}
    scheme, _, name = str(model.get("spec", "")).partition(":")
    if scheme not in _SOURCES:
        raise ModelError(
            f"{folder / CONFIG} names neither an architecture of timm's nor a model that modeledit "
            "can rebuild: give --model and --checkpoint"
        )
    stored = model.get("preprocessing")
    return _Found(
        _SOURCES[scheme](name, {**model.get("args", {}), **args}),
        Preprocessing.from_dict(stored) if stored else None,
        tuple(model["class_names"]) if model.get("class_names") else None,
        weights,
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path.parent} has no {CONFIG}: give a directory in timm's layout, "
            "or --model and --checkpoint"
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return found
