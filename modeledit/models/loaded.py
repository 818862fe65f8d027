"""A network together with all that is needed to feed it, rebuild it and write it out again."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from modeledit.errors import ModelError
from modeledit.models.preprocessing import Preprocessing
from modeledit.models.weights import State, is_rereadable, load_into, read_weights


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A network in eval mode and where it came from.

    args:        what its architecture was built with, inferred ones included.
    num_classes: outputs of the network; None only for a bare module that does not say.
    checkpoint:  the file its weights came from, if any.
    config:      what config.json beside the written weights will hold.
    notes:       what the user should know about the loading.
    """

    module: nn.Module
    spec: str
    args: Mapping[str, Any]
    preprocessing: Preprocessing
    num_classes: int | None
    class_names: tuple[str, ...] | None = None
    checkpoint: Path | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        module: nn.Module,
        preprocessing: Preprocessing | None = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
    ) -> LoadedModel:
        """A module from Python, as it is: nothing is copied and its mode is left alone.

        Its data sets yield tensors, so the preprocessing is only kept for whoever loads the result;
        without one, none is written and values in 0..1 stand in.
        """
        spec = f"python:{type(module).__name__}"
        own = getattr(module, "num_classes", None)
        count = num_classes if num_classes is not None else own if isinstance(own, int) else None
        names = checked_names(class_names, count)
        config = spec_config(spec, {}, preprocessing, names)
        stand_in = Preprocessing((224, 224), (0.0,) * 3, (1.0,) * 3)
        return cls(module, spec, {}, preprocessing or stand_in, count, names, config=config)

    def fresh(self, state: Mapping[str, Tensor]) -> nn.Module:
        """A new module of the same architecture holding `state`, in eval mode."""
        module = copy.deepcopy(self.module)
        load_into(module, state, source="the given state", model=self.spec)
        return module.eval()

    def base_state(self) -> State:
        """The unedited tensors as the checkpoint holds them, else as the module does."""
        if self.checkpoint is not None and is_rereadable(self.checkpoint):
            return read_weights(self.checkpoint, allow_pickle=False)[0]
        return self.module.state_dict()


def spec_config(
    spec: str,
    args: Mapping[str, Any],
    preprocessing: Preprocessing | None,
    class_names: Sequence[str] | None,
) -> dict[str, Any]:
    """config.json of a model that timm cannot build: what `load_model` needs to do it again."""
    model: dict[str, Any] = {"spec": spec, "args": dict(args)}
    if preprocessing is not None:
        model["preprocessing"] = preprocessing.to_dict()
    if class_names is not None:
        model["class_names"] = list(class_names)
    return {"modeledit": {"model": model}}


def checked_names(names: Sequence[str] | None, num_classes: int | None) -> tuple[str, ...] | None:
    """Class names, one per output and all different."""
    if names is None:
        return None
    if num_classes is not None and len(names) != num_classes:
        raise ModelError(f"{len(names)} class names for a model with {num_classes} outputs")
    doubled = sorted({name for name in names if list(names).count(name) > 1})
    if doubled:
        raise ModelError(f"class name {doubled[0]!r} is given twice: names must differ")
    return tuple(names)
