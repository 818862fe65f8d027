"""A run on disk: the state at the start of a wave and the answers of that wave so far."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from modeledit.checkpoint.store import Reader, write_state
from modeledit.errors import CheckpointError
from modeledit.shapley import Answer, Estimator, State

KIND = "modeledit.shapley"
PROJECTIONS = 8
DIGEST = 64  # characters of a sha256: too long to be read
ROUNDING = 1e-3  # of sketches: what was computed by other threads, batches or devices is the same


def fingerprint(
    estimator: Estimator,
    players: int,
    names: tuple[str, ...],
    seed: int,
    identity: Mapping[str, Any],
) -> str:
    """JSON of everything that a run's numbers depend on, budget and workers aside."""
    options = {f.name: _plain(getattr(estimator, f.name)) for f in fields(estimator)}  # type: ignore[arg-type]
    parts = {
        "estimator": type(estimator).__name__,
        "games": list(names),
        "identity": dict(identity),
        "options": options,
        "players": players,
        "seed": seed,
    }
    return json.dumps(parts, sort_keys=True)


def _plain(option: Any) -> Any:
    """An option as JSON; an array by its sketch."""
    return sketch(option) if isinstance(option, np.ndarray) else option


def sketch(array: npt.NDArray[Any]) -> dict[str, Any]:
    """Its shape, its norm and the norm's share along some fixed random directions, as JSON: equal
    up to rounding for arrays that are, which a digest is not."""
    flat = array.astype(np.float64).ravel()
    norm = float(np.linalg.norm(flat))
    along = np.random.default_rng(0).standard_normal((PROJECTIONS, flat.size)) @ flat
    return {
        "shape": list(array.shape),
        "norm": norm,
        "along": (along / norm).tolist() if norm else [0.0] * PROJECTIONS,
    }


def _alike(one: Any, other: Any) -> bool:
    """Whether two parts of fingerprints are of the same run."""
    sketches = [part for part in (one, other) if isinstance(part, dict) and "along" in part]
    if len(sketches) < 2:
        return bool(one == other)
    return (
        one["shape"] == other["shape"]
        and math.isclose(one["norm"], other["norm"], rel_tol=ROUNDING)
        and np.allclose(one["along"], other["along"], rtol=0, atol=ROUNDING)
    )


def save(path: Path, identity: str, state: State, answers: Mapping[int, Answer]) -> None:
    """Write atomically; the same run at the same point gives the same bytes."""
    numbers = {f"state.{name}": array for name, array in state.arrays.items()}
    numbers |= {f"answer.{index}": answer.values for index, answer in answers.items()}
    scalars = {
        "answers": {str(i): [a.evaluations, a.truncated] for i, a in sorted(answers.items())},
        "evaluations": state.evaluations,
        "rounds": state.rounds,
    }
    metadata = {
        "format": KIND,
        "identity": identity,
        "state": json.dumps(scalars, sort_keys=True),
    }
    tensors = {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in numbers.items()}
    write_state(path, tensors, metadata)


def load(path: Path, identity: str) -> tuple[State, dict[int, Answer]]:
    """What `save` wrote. Raises CheckpointError unless the file is of a run with that identity."""
    with Reader(path) as reader:
        if reader.metadata.get("format") != KIND:
            raise CheckpointError(
                f"{path} is not the state of a run: move it away, or write to another place"
            )
        _compare(path, json.loads(reader.metadata["identity"]), json.loads(identity))
        scalars = json.loads(reader.metadata["state"])
        arrays = {name: tensor.numpy() for name, tensor in reader.state().items()}
    known = json.loads(identity)
    state = State(
        known["players"],
        len(known["games"]),
        known["seed"],
        scalars["rounds"],
        scalars["evaluations"],
        {n.removeprefix("state."): a for n, a in arrays.items() if n.startswith("state.")},
    )
    answers = {
        int(i): Answer(int(i), arrays[f"answer.{i}"], evaluations, truncated)
        for i, (evaluations, truncated) in scalars["answers"].items()
    }
    return state, answers


def _compare(path: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise CheckpointError that names what differs."""
    saved, wanted = _flat(saved), _flat(wanted)
    different = [
        (name, saved.get(name), wanted.get(name))
        for name in sorted(saved.keys() | wanted.keys())
        if not _alike(saved.get(name), wanted.get(name))
    ]
    if different:
        # The one that can be read: a digest differs, too, where the seed does.
        name, before, now = min(different, key=lambda part: len(str(part[1:])))
        told = f"{name} {before}, this one has {now}"
        if max(len(str(before)), len(str(now))) >= DIGEST:
            told = f"other {name} than this one"
        raise CheckpointError(
            f"{path} is of a run with {told}: resume with the same settings, or write to another "
            "place"
        )


def _flat(parts: Mapping[str, Any]) -> dict[str, Any]:
    nested = [key for key in parts if isinstance(parts[key], dict)]
    found = {key: value for key, value in parts.items() if key not in nested}
    for key in nested:
        found |= {name: value for name, value in parts[key].items()}
    return found
