"""Weights from a file into a network: complete, of the right shapes, finite, or not at all."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modeledit.errors import CheckpointError
from modeledit.fitting import tied_names

State = Mapping[str, Tensor]

# Where training scripts put the weights in a pickle, best first.
_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights", "params")
_PREFIXES = ("module.", "_orig_mod.")  # left by DataParallel and torch.compile
_SHOWN = 3


def read_weights(path: Path, *, allow_pickle: bool) -> tuple[State, tuple[str, ...]]:
    """{name: tensor} as the file holds them, and what to tell the user about the reading."""
    # Here, not above: the checkpoint package names the models package in turn.
    from modeledit.checkpoint.store import is_safetensors, read_state

    if not path.is_file():
        raise CheckpointError(f"{path} is not a file: give a checkpoint in safetensors format")
    if allow_pickle and not is_safetensors(path):
        return _unpickle(path)
    return read_state(path), ()


def is_rereadable(path: Path | None) -> bool:
    """Whether the file holds its tensors as safetensors, so that an edit can keep its layout."""
    from modeledit.checkpoint.store import is_safetensors

    return path is not None and is_safetensors(path)


def load_into(module: nn.Module, state: State, *, source: str, model: str) -> None:
    """Copy every tensor, cast to the module's dtypes.

    May be missing: num_batches_tracked, and all but one name of a tied tensor. Anything else that
    is missing, extra or of another shape is a CheckpointError that names the first few.
    """
    tied = tied_names(module)
    own = module.state_dict()
    missing = [
        name
        for name in own
        if not name.endswith("num_batches_tracked")
        and not any(other in state for other in tied.get(name, (name,)))
    ]
    extra = [name for name in state if name not in own]
    wrong = [
        f"{name} {_describe(state[name])} for {_describe(tensor)}"
        for name, tensor in own.items()
        if name in state and not _fits(state[name], tensor)
    ]
    problems = [
        f"{len(names)} {what} ({_first(names)})"
        for what, names in (("missing", missing), ("unknown", extra), ("of another shape", wrong))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{source} does not fit {model}: tensors {', '.join(problems)}; "
            "check --model and --model-arg"
        )
    for name, names in tied.items():
        first = next((other for other in names if other in state), name)
        if name in state and not torch.equal(state[name], state[first]):
            raise CheckpointError(
                f"{source}: {first} and {name} differ, but {model} has one tensor for both"
            )
    module.load_state_dict(dict(state), strict=False)


def _fits(given: Tensor, own: Tensor) -> bool:
    return given.shape == own.shape and given.is_floating_point() == own.is_floating_point()


def _describe(tensor: Tensor) -> str:
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{list(tensor.shape)}{kind}"


def _first(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:_SHOWN]) + (", ..." if len(shown) > _SHOWN else "")


def _unpickle(path: Path) -> tuple[State, tuple[str, ...]]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} cannot be read as plain tensors (nothing else is unpickled): {reason[:120]}"
        ) from error
    state, key = _inside(found, path)
    used = f"key {key!r} of {path.name}" if key else f"the top level of {path.name}"
    note = f"weights were read from a pickle, {used}"
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
            note += f", without the prefix {prefix!r}"
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{path}: tensor {name} holds NaN or infinity: use a sound checkpoint"
            )
    return state, (note,)


def _inside(found: Any, path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The state dict in what was unpickled, and the key it was under (None: the top level)."""
    if _is_state(found):
        return dict(found), None
    if isinstance(found, dict):
        for key in _KEYS:
            if _is_state(found.get(key)):
                return dict(found[key]), key
    held = f"keys {_first(map(str, found))}" if isinstance(found, dict) else type(found).__name__
    raise CheckpointError(
        f"{path} holds {held}: weights must be at the top level or under one of {', '.join(_KEYS)}"
    )


def _is_state(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )
