"""Gates in random orders: a part of the units fades at a time, in an order of each image's own.

On the straight path of `gate_path` all units fade together, and networks whose metric hardly
changes until many are gone are seen where nothing matters. Here a share of the units, drawn for
each image, stands between pinned and intact while the others are all there or all gone, and a
network that is worth nothing after a few is seen while those few go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from modeledit.data import Batch
from modeledit.gate_path import Gated, Parts
from modeledit.pins import Values
from modeledit.runtime import Runtime
from modeledit.subnets.switches import channel_axis
from modeledit.surgery import hooked
from modeledit.units import Anatomy, Layer

PILOT = 32  # images that tell after how many units the metric is lost
SHARES = (0.05, 0.1, 0.2, 0.35, 0.5)  # of units gone, that are tried
LOST = 0.85  # of the metric, where it counts as lost


@dataclass(frozen=True, eq=False)
class Fade:
    """Where a layer's units show, and what they fade to: rows first to last of its output.

    fixed: (units * width,); free: (units,) bool, False for units that cannot take their pin.
    """

    module: nn.Module
    axis: int
    first: int
    width: int
    fixed: Tensor
    free: Tensor

    @classmethod
    def of(cls, model: nn.Module, gated: Gated, layer: Layer) -> Fade:
        """Before a norm that pins, the output is at `fixed` where the norm gives the pin."""
        module = model.get_submodule(layer.weight[0].rpartition(".")[0])
        rows = slice(layer.first, layer.first + layer.units * layer.width)
        ends = [names[0] for names in (layer.norm_weight, layer.weight, layer.bias) if names]
        changed = torch.zeros(layer.units, dtype=torch.bool, device=gated.near[ends[-1]].device)
        for name in (name for name in ends if name in gated.near):
            moves = gated.near[name] != gated.far[name]
            moves = moves[rows] if layer.pin != "norm" else moves
            changed |= moves.reshape(layer.units, -1).any(1)
        if layer.pin == "norm":
            norm = model.get_submodule(layer.norm or "")
            weight, bias = gated.near[layer.norm_weight[0]], layer.bias[0]
            deviation = (norm.running_var + norm.eps).sqrt()  # type: ignore[operator]
            changed &= weight != 0  # a norm of weight 0 has no input that gives another constant
            shift = deviation * (gated.far[bias] - gated.near[bias]) / weight
            fixed = norm.running_mean + torch.where(changed, shift, 0.0)  # type: ignore[operator]
        elif layer.bias:
            fixed = gated.far[layer.bias[0]][rows]
        else:
            fixed = torch.zeros(layer.units * layer.width, device=changed.device)
        axis = channel_axis(module)
        return cls(module, 1 if axis is None else axis, layer.first, layer.width, fixed, changed)

    def __call__(self, output: Tensor, gates: Tensor) -> Tensor:
        """(B, ...) with each image's own gates, (B, units)."""
        moved = output.movedim(self.axis, -1)  # (B, ..., rows)
        count = len(self.fixed)
        own = moved.narrow(-1, self.first, count)
        each = gates.repeat_interleave(self.width, 1)
        each = each.reshape(len(gates), *[1] * (own.dim() - 2), count).to(own)
        fixed = self.fixed.to(own)
        parts = [moved[..., : self.first], fixed + each * (own - fixed)]
        parts.append(moved[..., self.first + count :])
        return torch.cat(parts, -1).movedim(-1, self.axis)

    def effects(self, output: Tensor, gradient: Tensor) -> Tensor:
        """(B, units): each image's gradient along (output - fixed), 0 for units that are not free.

        Divided by a unit's gate it is the slope in that gate."""
        own, slope = (
            tensor.movedim(self.axis, -1).narrow(-1, self.first, len(self.fixed))
            for tensor in (output.detach(), gradient)
        )
        size = (len(output), -1, len(self.fixed))
        along = (own * slope).reshape(size).sum(1) - self.fixed.to(own) * slope.reshape(size).sum(1)
        return along.reshape(len(output), -1, self.width).sum(2) * self.free.to(own)


@dataclass(frozen=True, eq=False)
class Fading:
    """A network whose units can be faded, for each image its own: its metric, and its slopes."""

    model: nn.Module
    fades: Sequence[Fade]
    parts: Parts
    runtime: Runtime

    @cached_property
    def free(self) -> Tensor:
        """(n,) bool, on the CPU: False for units that cannot take their pin."""
        return torch.cat([fade.free for fade in self.fades]).cpu()

    def windows(self, batches: Sequence[Batch]) -> list[tuple[float, float]]:
        """Shares of an order between which units fade, one window after the other."""
        few = _pilot(batches)
        worth = [self.worth(few, share) for share in (0.0, *SHARES, 1.0)]
        fall = worth[0] - worth[-1]  # (m,)
        for share, left in zip(SHARES, worth[1:-1], strict=True):
            lost = worth[0] - left >= LOST * fall
            if bool((fall > 0).any()) and bool(lost[fall > 0].all()):
                return [(0.0, share)]
        return [(0.0, 0.5), (0.5, 1.0)]

    def worth(self, batches: Sequence[Batch], share: float) -> Tensor:
        """(m,) with that share of the units pinned, others for each image."""
        total: list[Tensor] = []
        for at, batch in enumerate(batches):
            draws = torch.Generator().manual_seed(self.runtime.seed * 1_000_003 + at)
            turns = torch.rand(len(batch.labels), len(self.free), generator=draws)
            own = self._by_layer(((turns >= share) | ~self.free).to(batch.images))
            with torch.no_grad(), hooked(self._hooks(own)):
                total.append(self.parts(self.model(batch.images.clone()), batch))
            self.runtime.meter.forward(len(batch.labels))
        return torch.stack(total).sum(0).cpu()

    def slopes(self, gates: Tensor, batch: Batch) -> Tensor:
        """(m, B, n), on the CPU: of each image's share of the m numbers in its gates, (B, n)."""
        own = [part.to(batch.images.device).requires_grad_() for part in self._by_layer(gates)]
        with torch.enable_grad(), hooked(self._hooks(own)):
            numbers = self.parts(self.model(batch.images.clone()), batch)  # (m,)
        self.runtime.meter.forward(len(batch.labels))
        columns = []
        for k, number in enumerate(numbers):
            found = torch.autograd.grad(number, own, retain_graph=k + 1 < len(numbers))
            self.runtime.meter.backward(len(batch.labels))
            columns.append(torch.cat(found, 1).cpu())
        return torch.stack(columns)

    def _by_layer(self, gates: Tensor) -> tuple[Tensor, ...]:
        return torch.split(gates, [len(fade.free) for fade in self.fades], 1)

    def _hooks(self, gates: Sequence[Tensor]) -> list[tuple[nn.Module, Callable[[Tensor], Tensor]]]:
        def see(fade: Fade, gate: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda output: fade(output, gate)

        return [
            (fade.module, see(fade, gate)) for fade, gate in zip(self.fades, gates, strict=True)
        ]


def gate_orders(
    model: nn.Module,
    anatomy: Anatomy,
    layers: Sequence[str],
    values: Values,
    batches: Sequence[Batch],
    parts: Parts,
    runtime: Runtime,
    steps: int = 10,
) -> npt.NDArray[np.float64]:
    """(n, m): mean slope dV/dm_i with m_i and the gates of the units of its window uniform in 0..1,
    those before them in the image's order pinned, those after intact.

    The windows are the two halves of an order; where V is as good as lost once a share of the
    units, at most half, is gone, that share is the only one. Near to Shapley values; they add up
    to V(all) - V(none) only roughly. An order takes a step for each window, every second one is
    the reverse of the one before, with its gates reversed. 0 for units that cannot take their
    pin, and for those whose norm has weight 0. Takes 3 * steps forward-equivalents an image, and
    `pilot_passes`; `steps` is even. The same seed gives the same values.
    """
    gated = Gated.of(model, anatomy, layers, values)
    network = Fading(
        model, [Fade.of(model, gated, layer) for layer in gated.layers], parts, runtime
    )
    if not batches:
        raise ValueError("no batch came")
    windows = network.windows(batches)
    total = torch.zeros(())
    with runtime.progress.stage("fading units in random orders", steps * len(batches)) as tick:
        for at, batch in enumerate(batches):
            draws = torch.Generator().manual_seed(runtime.seed * 1_000_003 + at)
            for gates, fading in _orders(len(batch.labels), network.free, windows, steps, draws):
                slopes = network.slopes(gates, batch)  # (m, B, n)
                found = (slopes * fading).sum(1).T.double() * len(windows) / steps
                total = total + found
                tick(1)
    result: npt.NDArray[np.float64] = total.numpy()
    return result


def pilot_passes(images: int) -> int:
    """At most so many forward passes find out after how many units V is lost."""
    return (len(SHARES) + 2) * min(images, 2 * PILOT)


def _pilot(batches: Sequence[Batch]) -> list[Batch]:
    """Evenly spaced images, as they may come class by class."""
    stride, seen, found = max(1, sum(len(b.labels) for b in batches) // PILOT), 0, []
    for batch in batches:
        rows = slice(-seen % stride, None, stride)
        found.append(Batch(batch.images[rows], batch.labels[rows], batch.indices[rows]))
        seen += len(batch.labels)
    return [batch for batch in found if len(batch.labels)]


def _orders(
    images: int,
    free: Tensor,
    windows: Sequence[tuple[float, float]],
    steps: int,
    draws: torch.Generator,
) -> list[tuple[Tensor, Tensor]]:
    """(B, n) gates, and the units, (B, n) bool, that are between pinned and intact, by step."""
    n, found = len(free), []
    players = int(free.sum())
    for order in range(steps // len(windows)):
        if order % 2 == 0:
            # Over the images each unit comes early and late, and its gate is near 0 and near 1,
            # equally often.
            turns = torch.rand(images, players, generator=draws).argsort(0)
            spread = (turns + torch.rand(1, players, generator=draws)) / images
            rank = spread.argsort(1).argsort(1)
            places = torch.rand(images, players, generator=draws).argsort(0)
            inner = (places + torch.rand(images, players, generator=draws)) / images
        else:
            rank, inner = players - 1 - rank, 1 - inner
        for first, last in windows:
            low, high = (max(round(edge * players), 1) if edge else 0 for edge in (first, last))
            now = (low <= rank) & (rank < high)
            gates, fading = torch.ones(images, n), torch.zeros(images, n, dtype=torch.bool)
            gates[:, free] = torch.where(now, inner, (rank >= high).float())
            fading[:, free] = now
            found.append((gates, fading))
    return found
