"""Work out which values pin units to a constant: weight rows 0, and the constant where it can go.

A unit of a convolution that one BatchNorm follows is pinned there: the norm's weight 0, its bias
the value. Any other is pinned by its own bias; without a bias it can only be pinned to 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from modeledit.errors import ModelEditError, ModelError
from modeledit.types import Change

if TYPE_CHECKING:
    from modeledit.units import Anatomy, Layer

Values = Literal["zero"] | Mapping[str, Tensor]
Pinned = tuple[tuple[Change, ...], dict[str, tuple[int, ...]]]


def pins(
    model: nn.Module, anatomy: Anatomy, chosen: Mapping[str, Tensor], values: Values
) -> Pinned:
    """Changes that pin the chosen units, and the units that cannot be pinned to their value.

    chosen: {layer: (k,) int64 units}.
    values: "zero", or {layer: (units,), heads (units, width)} mean own outputs (`record_means`).
            "zero" is 0 where the pin acts: after the BatchNorm if there is one. A mean m becomes
            beta + gamma * (m - running_mean) / sqrt(running_var + eps) there.
    All values are rounded to the dtype of the tensor that takes them; a tied tensor is changed
    under each of its names.
    """
    tensors = dict(model.named_parameters(remove_duplicate=False))
    draft = _Draft(tensors)
    left_out = {}
    for name, indices in chosen.items():
        layer = _layer(anatomy, name)
        units = _units(layer, indices)
        means = None if isinstance(values, str) else _means(layer, values)
        if means is not None and layer.pin == "zero":
            stuck = units[(means[units] != 0).any(1)]
            if len(stuck):
                left_out[name] = tuple(stuck.tolist())
            units = units[(means[units] == 0).all(1)]
        if len(units):
            _pin(draft, model, layer, units, means)
    return draft.changes(), left_out


class _Draft:
    """Gathers new values tensor by tensor."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.parts: dict[tuple[str, Literal["row", "element"]], list[tuple[Tensor, Tensor]]] = {}

    def zero_rows(self, names: tuple[str, ...], rows: Tensor) -> None:
        for name in names:
            self.parts.setdefault((name, "row"), []).append((rows, torch.zeros(len(rows))))

    def set(self, names: tuple[str, ...], indices: Tensor, values: Tensor) -> None:
        for name in names:
            rounded = values.to(self.tensors[name].dtype).float()
            if not bool(rounded.isfinite().all()):
                raise ModelError(
                    f"a pin of {name} is too large for {self.tensors[name].dtype}: "
                    "convert the checkpoint to float32 first"
                )
            self.parts.setdefault((name, "element"), []).append((indices, rounded))

    def changes(self) -> tuple[Change, ...]:
        made = []
        for (name, scope), parts in sorted(self.parts.items()):
            indices = torch.cat([part[0] for part in parts])
            order = indices.argsort()
            operand = torch.cat([part[1] for part in parts])[order]
            shape = tuple(self.tensors[name].shape)
            made.append(Change(name, shape, indices[order], operand, "set", scope))
        return tuple(made)


def _pin(
    draft: _Draft, model: nn.Module, layer: Layer, units: Tensor, means: Tensor | None
) -> None:
    # k units, w width
    rows = (
        layer.first + (units[:, None] * layer.width + torch.arange(layer.width)).flatten()
    )  # (kw,)
    draft.zero_rows(layer.weight, rows)
    values = torch.zeros(len(rows), dtype=torch.float64)
    if means is not None:
        values = means[units].flatten().double()
    if layer.norm is None:
        draft.set(layer.bias, rows, values)
        return
    if means is not None:
        values = _through(model.get_submodule(layer.norm), units, values)
    draft.set(layer.norm_weight, units, torch.zeros(len(units)))
    draft.set(layer.bias, units, values)


def _through(norm: nn.Module, units: Tensor, means: Tensor) -> Tensor:
    """What the BatchNorm makes of the means, in float64."""

    def of(name: str) -> Tensor:
        tensor: Tensor = getattr(norm, name)
        exact: Tensor = tensor.detach().to("cpu", torch.float64)
        return exact[units]

    scale = of("weight") / torch.sqrt(of("running_var") + float(norm.eps))  # type: ignore[arg-type]
    return of("bias") + scale * (means - of("running_mean"))


def _layer(anatomy: Anatomy, name: str) -> Layer:
    if name not in anatomy.layers:
        raise ModelError(
            f"{name!r} is no layer whose units can be edited: "
            f"the model has {len(anatomy.layers)}, from {', '.join(list(anatomy.layers)[:3])} on"
        )
    return anatomy.layers[name]


def _units(layer: Layer, indices: Tensor) -> Tensor:
    units: Tensor = torch.unique(indices.detach().to("cpu", torch.int64))  # ascending
    if len(units) and not 0 <= int(units[0]) <= int(units[-1]) < layer.units:
        wrong = int(units[0]) if int(units[0]) < 0 else int(units[-1])
        raise ModelEditError(f"{layer.name} has units 0 to {layer.units - 1}, not {wrong}")
    return units


def _means(layer: Layer, values: Mapping[str, Tensor]) -> Tensor:
    """(units, width)"""
    if layer.name not in values:
        raise ModelEditError(f"no mean output was given for {layer.name}: record it first")
    means = values[layer.name].detach().to("cpu")
    if means.numel() != layer.units * layer.width:
        raise ModelEditError(
            f"{layer.name} has {layer.units} units of width {layer.width}, "
            f"but means of shape {tuple(means.shape)} were given"
        )
    return means.reshape(layer.units, layer.width)
