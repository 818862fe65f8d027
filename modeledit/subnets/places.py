"""Where the units of a layer show in a traced network, and what the dead ones are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from modeledit.subnets.program import Program, bits
from modeledit.subnets.switches import Switch, channel_axis, constants


@dataclass(frozen=True, eq=False)
class Place:
    """Where the units of a layer show: steps that use its parameters, and what they do there.

    rows: (k, w) channels of each player along `axis`.
    fixed: (k, w) output of each dead player, None if the steps must be run to know it.
    """

    steps: tuple[int, ...]
    axis: int
    rows: list[list[int]]
    fixed: list[list[float]] | None

    def write(self, value: Tensor, move: Move, intact: Tensor | None) -> tuple[Tensor, Tensor]:
        """Writes what the players of a move become into a step's value, those that come alive from
        its `intact` value; the channels (c,) that changed, and what was there."""
        rows = self._rows[move.which].flatten().to(value.device)
        before = value.index_select(self.axis, rows)
        if len(dead := move.which[~move.alive]):
            shape = [1] * value.dim()
            shape[self.axis] = -1
            constants = self._fixed[dead].to(value).view(shape)
            places = self._rows[dead].flatten().to(value.device)
            target = [*value.shape]
            target[self.axis] = len(places)
            value.index_copy_(self.axis, places, constants.expand(target))
        if len(born := move.which[move.alive]) and intact is not None:
            places = self._rows[born].flatten().to(value.device)
            value.index_copy_(self.axis, places, intact.index_select(self.axis, places))
        return rows, before

    @cached_property
    def _rows(self) -> Tensor:
        return torch.tensor(self.rows)  # (k, w)

    @cached_property
    def _fixed(self) -> Tensor:
        return torch.tensor(self.fixed, dtype=torch.float64)  # (k, w)


@dataclass(frozen=True, eq=False)
class Move:
    """The players of one layer that change: positions (j,), and what they become."""

    layer: int
    which: Tensor
    alive: Tensor


def moved(sizes: list[int], old: Tensor, new: Tensor) -> list[Move]:
    """What turns the coalition `old` (n,) into `new`; sizes: players of each layer."""
    if torch.equal(old, new):
        return []
    moves = []
    parts = zip(torch.split(old, sizes), torch.split(new, sizes), strict=True)
    for layer, (was, now) in enumerate(parts):
        which = (was != now).nonzero().flatten()
        if len(which):
            moves.append(Move(layer, which, now[which]))
    return moves


def find(program: Program, switch: Switch, values: Sequence[Any]) -> Place:
    """The place of a switch's players; values: of all steps in a network of dead units."""
    steps = tuple(program.using(switch.tensors))
    axes = {channel_axis(program.steps[step].module) for step in steps}
    axis = axes.pop() if len(axes) == 1 else None
    if axis is None:
        return Place(steps, 1, switch.rows, None)
    found = [constants(values[step], axis, switch.rows) for step in steps]
    if any(f is None or not torch.equal(f, found[0]) for f in found):  # type: ignore[arg-type]
        return Place(steps, axis, switch.rows, None)
    return Place(steps, axis, switch.rows, found[0].tolist())  # type: ignore[union-attr]


def worth(
    program: Program, places: Sequence[Place], sizes: Sequence[int], limit: int, thin: bool
) -> int:
    """The steps to keep, a bit set: those that a change of one layer reads, the last ones first.

    Late values are small and spare most of the network; early ones spare next to nothing.
    sizes: bytes of the value of each step; limit: of all that is kept. thin: also what a single
    channel's change is added to or written into, the norms and whatever several steps read.
    """
    wanted = 1 << program.last
    for place in places:
        below = 0
        for step in place.steps:
            below |= program.below[step]
            if place.fixed is None:
                below |= 1 << step
        wanted |= program.read_by(below)
        if thin:
            wanted |= sum(1 << step for step in bits(below) if _joins(program, step))
    kept, room = 0, limit
    for step in reversed(list(bits(wanted & ~1))):
        if sizes[step] <= room:
            kept |= 1 << step
            room -= sizes[step]
    return kept


def origins(
    program: Program, places: Sequence[Place], kept: int, sizes: Sequence[int], limit: int
) -> int:
    """The kept steps, a bit set, whose intact value is to be kept as well: no unit that plays lies
    before them, so that a unit that comes alive is copied from there. As far as the limit goes."""
    room = limit - sum(sizes[step] for step in bits(kept & ~1))
    downstream, found = 0, 0
    users = Counter(step for place in places for step in place.steps)
    for step in users:
        downstream |= program.below[step]
    for place in places:
        for step in place.steps if place.fixed is not None else ():
            first = users[step] == 1 and not downstream >> step & 1
            if first and kept >> step & 1 and sizes[step] <= room:
                found |= 1 << step
                room -= sizes[step]
    return found


def _joins(program: Program, step: int) -> bool:
    readers = sum(step in other.reads for other in program.steps)
    return readers > 1 or isinstance(program.steps[step].module, _BatchNorm)
