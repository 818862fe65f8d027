"""Does a plan fit a model or a file, and which tensors does it mean there? Writes nothing."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from torch import Tensor, nn

from modeledit.types import Change, EditPlan


def tied_names(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """{state-dict name: every state-dict name of the same tensor, itself included}."""
    groups: dict[int, list[str]] = {}
    tensors = named_tensors(model)
    for name, tensor in tensors.items():
        groups.setdefault(id(tensor), []).append(name)
    return {name: tuple(groups[id(tensor)]) for name, tensor in tensors.items()}


def rename(plan: EditPlan, model: nn.Module, names: Collection[str]) -> EditPlan:
    """The plan for a file that holds `names`: tied tensors under all, and only, those of its names.

    A change that has no name there is kept as it is, so that applying it fails by name.
    """
    tied = tied_names(model)
    changes: dict[tuple[str, str, str], Change] = {}
    for change in plan.changes:
        here = [name for name in tied.get(change.tensor, ()) if name in names]
        for name in here or [change.tensor]:
            changes[name, change.scope, change.action] = replace(change, tensor=name)
    return replace(plan, changes=tuple(changes[key] for key in sorted(changes)))


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, live, under every state-dict name they have."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def misfit(change: Change, tensor: Tensor | None) -> str | None:
    """What is wrong with a change for this tensor, in words; None if it fits."""
    name, shape = change.tensor, tuple(change.shape)
    if tensor is None:
        return f"it changes tensor {name}, which is not there; use the model the edit was made for"
    if tuple(tensor.shape) != shape:
        return f"it changes {name} of shape {shape}, but here it is {tuple(tensor.shape)}"
    if not tensor.is_floating_point():
        return f"it changes {name}, which holds {tensor.dtype}; only floating-point can be edited"
    limit = shape[0] if change.scope == "row" and shape else change.size
    indices, operand = change.indices, change.operand
    if indices.shape != operand.shape or indices.dim() != 1:
        return f"{name} has {indices.numel()} indices for {operand.numel()} values"
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < limit:
        return f"it changes entry {int(indices.max())} of {name}, which has {limit}"
    if not bool(operand.isfinite().all()):
        return f"it holds a value for {name} that is not finite"
    return None
