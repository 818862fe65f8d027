"""What is kept between evaluations: the outputs of some steps, for every batch of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from modeledit.runtime import Runtime
from modeledit.subnets.places import Move, Place, origins, worth
from modeledit.subnets.program import Program, bits, run

Saved = tuple[Tensor, int, Tensor, Tensor]  # a value, its axis of units, rows, what was there


class Kept:
    """Values of the steps that are worth keeping, within `limit` bytes over all batches.

    origins: bits of the steps whose values with everybody alive are kept as well, for units that
    come alive again.
    """

    def __init__(
        self,
        program: Program,
        places: Sequence[Place],
        images: Sequence[Tensor],
        runtime: Runtime,
        limit: int,
    ) -> None:
        self._program, self._places, self._images = program, places, images
        self._runtime, self._limit = runtime, limit
        self._count = sum(map(len, images))
        self.values: list[list[Any]] = []
        self.origins = 0
        self._intact: list[dict[int, Tensor]] = []

    def choose(self, thin: bool) -> None:
        """Which steps are kept, by what they weigh; thin: as thin deaths need them."""
        sizes = [self._count * size for size in self.sizes()]
        self._program.keep(worth(self._program, self._places, sizes, self._limit, thin))
        self.origins = origins(self._program, self._places, self._program.kept, sizes, self._limit)

    def sizes(self) -> list[int]:
        """Bytes of every step's value for one image."""
        values = self._program.values(self._images[0][:1])
        return [value.nbytes if isinstance(value, Tensor) else 0 for value in values]

    def forget(self) -> None:
        """Nothing but the images is known."""
        self.values = [[images, *[None] * self._program.last] for images in self._images]

    def remember(self) -> None:
        """The values now are those of the intact network."""
        self._intact = [
            {step: values[step].clone() for step in bits(self.origins)} for values in self.values
        ]

    def overwrite(self, step: int, move: Move) -> list[Saved]:
        """Writes a move into the values of `step`, for `restore`."""
        place, saved = self._places[move.layer], []
        for at, values in enumerate(self.values):
            intact = self._intact[at].get(step) if self._intact else None
            saved.append((values[step], place.axis, *place.write(values[step], move, intact)))
        return saved

    def run(self, plan: Any, keep: bool) -> Tensor:
        """(N, classes) float32 on the CPU; keep: what the plan stores is stored."""
        parts = []
        for values in self.values:
            after = run(plan, values)
            parts.append(after[self._program.last].float())
            if keep:
                for place in plan.stored:
                    values[place] = after[place]
        self._runtime.meter.forward(plan.share * self._count)
        return torch.cat(parts).cpu()


def restore(saved: Sequence[Saved]) -> None:
    """Takes overwriting back, the last first."""
    for value, axis, rows, before in reversed(saved):
        value.index_copy_(axis, rows, before)
