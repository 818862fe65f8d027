"""The only file that holds hooks or writes weights: watch, record, apply, revert.

Whatever is borrowed from a model (hooks, mode, values) is given back, also when something raises.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from modeledit.errors import CheckpointError, ModelError
from modeledit.fitting import misfit, named_tensors, rename, tied_names
from modeledit.outputs import Point, point
from modeledit.pins import pins
from modeledit.runtime import Runtime
from modeledit.types import Change, EditPlan

if TYPE_CHECKING:
    from modeledit.data import Split

__all__ = [
    "apply",
    "apply_to_state",
    "edited",
    "evaluating",
    "hooked",
    "per_unit",
    "pins",
    "record_means",
    "rename",
    "settled",
    "tap",
    "tied_names",
]

See = Callable[[Tensor], Tensor | None]  # may return a tensor to put in its place


# --- watching -------------------------------------------------------------------------------------


@contextmanager
def hooked(
    after: Iterable[tuple[nn.Module, See]] = (), before: Iterable[tuple[nn.Module, See]] = ()
) -> Iterator[None]:
    """Call each function with its module's output (`after`) or first input (`before`)."""
    handles = []
    try:
        for module, see in after:
            handles.append(module.register_forward_hook(_on_output(see)))
        for module, see in before:
            handles.append(module.register_forward_pre_hook(_on_input(see)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module has the mode it had, mixed modes included."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        # Set one by one: train() may be overridden, and would not give mixed modes back.
        for module, _ in modes:
            module.training = False
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def tap(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, list[Tensor]]]:
    """Collects {layer: its own outputs, one per call, since the lists were last cleared}.

    The tensors keep their values under in-place activations (the net goes on with a copy) and
    belong to the autograd graph. `per_unit` brings them to (B, units, n).
    """
    found: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keep(name: str) -> See:
        def see(output: Tensor) -> Tensor:
            found[name].append(output)
            return output.clone()

        return see

    with _watching({name: (_point(model, name), keep(name)) for name in layers}):
        yield found


def per_unit(model: nn.Module, layer: str, output: Tensor) -> Tensor:
    """(B, units, n) view of a layer's own output; a head's n runs over its channels and tokens."""
    return _point(model, layer).per_unit(output)


def record_means(
    model: nn.Module, split: Split, layers: Sequence[str], runtime: Runtime
) -> dict[str, Tensor]:
    """{layer: (units,) float32; heads (units, width)}: mean own output over examples and space.

    Summed in float64 over every call of a shared layer, in eval mode, on a copy of the model.
    """
    work = copy.deepcopy(model).to(runtime.device).eval()
    points = {name: _point(work, name) for name in layers}
    sums = {name: torch.zeros(p.units, p.width, dtype=torch.float64) for name, p in points.items()}
    counts = dict.fromkeys(layers, 0)

    def add(name: str) -> See:
        def see(output: Tensor) -> None:
            place = points[name]
            flat = place.per_unit(output)
            values = flat.reshape(*flat.shape[:2], place.width, -1)
            sums[name] += _sum(values)
            counts[name] += values.shape[0] * values.shape[3]

        return see

    stage = runtime.progress.stage("recording means", len(split))
    watch = _watching({name: (place, add(name)) for name, place in points.items()})
    with stage as tick, torch.inference_mode(), watch:
        for batch in split.batches(runtime):
            work(batch.images)
            runtime.meter.forward(len(batch.images))
            tick(len(batch.images))
    return {name: _mean(name, sums[name], counts[name]) for name in layers}


def _sum(values: Tensor) -> Tensor:
    # B images, U units, W width, N positions
    exact = torch.float32 if values.device.type == "mps" else torch.float64
    return values.sum((0, 3), dtype=exact).to("cpu", torch.float64)  # (U, W)


def _mean(name: str, total: Tensor, count: int) -> Tensor:
    if count == 0:
        raise ModelError(f"layer {name} was never run: its mean output cannot be recorded")
    mean = (total / count).float()
    if not bool(mean.isfinite().all()):
        raise ModelError(f"the mean output of {name} is not finite: check the model and the data")
    return mean.squeeze(1) if mean.shape[1] == 1 else mean


@contextmanager
def _watching(watch: Mapping[str, tuple[Point, See]]) -> Iterator[None]:
    after = [(p.module, see) for p, see in watch.values() if not p.before]
    before = [(p.module, see) for p, see in watch.values() if p.before]
    with hooked(after, before):
        yield


def _point(model: nn.Module, name: str) -> Point:
    try:
        found = point(model.get_submodule(name))
    except AttributeError:
        found = None
    if found is None:
        raise ModelError(
            f"{name!r} is no layer with units: name a convolution, linear layer or head"
        )
    return found


def _on_output(see: See) -> Callable[[nn.Module, Any, Any], Any]:
    return lambda _module, _args, output: see(output)


def _on_input(see: See) -> Callable[[nn.Module, Any], Any]:
    return lambda _module, args: see(args[0]) if args else None


# --- writing --------------------------------------------------------------------------------------


def apply(model: nn.Module, plan: EditPlan) -> nn.Module:
    """An edited copy; the model that came in is untouched."""
    work = copy.deepcopy(model)
    for tensor, change in _targets(work, plan):
        _write(tensor, change)
    return work


@contextmanager
def edited(model: nn.Module, plan: EditPlan) -> Iterator[nn.Module]:
    """The model edited in place; afterwards every value has its old bits back, come what may."""
    targets = _targets(model, plan)
    undo: list[tuple[Tensor, tuple[Tensor, ...], Tensor]] = []
    try:
        for tensor, change in targets:
            place = _place(tensor, change)
            undo.append((tensor, place, tensor[place]))  # kept before the write, so never too late
            _write(tensor, change)
        yield model
    finally:
        for tensor, place, old in reversed(undo):
            tensor.index_put_(place, old)


def apply_to_state(
    state: Mapping[str, Tensor], plan: EditPlan, *, source: str
) -> dict[str, Tensor]:
    """The edited state dict: tensors that the plan names are copies, all others the same objects.

    `source` names the state in messages; a plan made for another model is a CheckpointError.
    """
    for change in plan.changes:
        if problem := misfit(change, state.get(change.tensor)):
            raise CheckpointError(f"the edit does not fit {source}: {problem}")
    result = dict(state)
    for name in dict.fromkeys(change.tensor for change in plan.changes):
        result[name] = state[name].detach().clone()
    for change in plan.changes:
        _write(_at_least_1d(result[change.tensor]), change)
    return result


def settled(plan: EditPlan, state: Mapping[str, Tensor]) -> EditPlan:
    """The plan with factors replaced by the values that they lead to.

    Whoever has the edited tensors and a factor other than 0 has the old value too; a plan that is
    handed out must not say more than the edited checkpoint does.
    """
    after = apply_to_state(state, plan, source="the model")

    def settle(change: Change) -> Change:
        if change.action == "set" or not bool(change.operand.any()):
            return change
        tensor = _at_least_1d(after[change.tensor])
        values = tensor[_place(tensor, change)].float()
        return replace(change, action="set", operand=values)

    return replace(plan, changes=tuple(settle(change) for change in plan.changes))


def _targets(model: nn.Module, plan: EditPlan) -> list[tuple[Tensor, Change]]:
    """Live tensors beside their changes, all checked; a tied tensor is changed once."""
    tensors = named_tensors(model)
    found: dict[tuple[int, str, str], tuple[Tensor, Change]] = {}
    for change in plan.changes:
        tensor = tensors.get(change.tensor)
        if problem := misfit(change, tensor):
            raise ModelError(f"the edit does not fit {type(model).__name__}: {problem}")
        if tensor is not None:
            key = (id(tensor), change.scope, change.action)
            found.setdefault(key, (_at_least_1d(tensor.detach()), change))
    return list(found.values())


def _at_least_1d(tensor: Tensor) -> Tensor:
    return tensor.view(1) if tensor.dim() == 0 else tensor


def _place(tensor: Tensor, change: Change) -> tuple[Tensor, ...]:
    """Coordinates, not flat positions: a channels_last tensor has no flat view."""
    indices = change.indices.to(tensor.device)
    return (indices,) if change.scope == "row" else torch.unravel_index(indices, tensor.shape)


def _write(tensor: Tensor, change: Change) -> None:
    place = _place(tensor, change)
    old = tensor[place]  # (k, ...)
    operand = change.operand.to(tensor.device).reshape(-1, *[1] * (old.dim() - 1))
    if change.action == "scale":
        wide = torch.promote_types(tensor.dtype, torch.float32)
        # Not a plain product: it would leave -0.0, and NaN where an infinity is switched off.
        operand = torch.where(operand == 0, 0.0, old.to(wide) * operand.to(wide))
    tensor.index_put_(place, operand.to(tensor.dtype).expand_as(old))
