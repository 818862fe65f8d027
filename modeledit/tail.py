"""The end of a network, from the first use of some parameters on, over fixed images.

What comes before those parameters does not change when they do, so it is computed once per image.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from modeledit.data import Batch
from modeledit.recording import Needs, Recording
from modeledit.replay import Replay
from modeledit.runtime import Runtime, Tick


@dataclass(frozen=True, eq=False)
class Piece:
    """One batch: what is needed to run its end, its labels, and its positions in the split."""

    recording: Recording
    labels: Tensor
    indices: Tensor


class Tail:
    """Runs the end of `model` for all batches, as often as its parameters `names` change.

    share: floating-point operations of the end over those of the whole network, in 0..1.
    taken: how far into the split it got; batches are taken while they fit into `limit` bytes.
    complete: whether that was to the end.
    Parameters that are used before the first of `names` must not change.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Sequence[str],
        batches: Iterable[Batch],
        runtime: Runtime,
        tick: Tick,
        limit: int = 2**30,
    ) -> None:
        self.model, self.names = model, tuple(names)
        self._replay = Replay(model, sys.maxsize)
        self.pieces: list[Piece] = []
        self.taken = 0
        self.complete = True
        self.share = 1.0
        needs: Needs | None = None
        for batch in batches:
            needs = needs or self._replay.needs(batch.images[:1], self.names)
            recording = self._replay.record(batch.images, needs)
            limit -= recording.bytes
            if limit < 0:
                self.complete = False
                break
            self.pieces.append(Piece(recording, batch.labels, batch.indices))
            self.taken = int(batch.indices[-1]) + 1
            runtime.meter.forward(len(batch.labels))
            tick(len(batch.labels))
            if len(self.pieces) == 1:
                self.share = self._measured_share(batch.images)

    def logits(self, piece: Piece, runtime: Runtime, backward: bool = False) -> Tensor:
        """(B, classes) with the parameters as they are now; say if a backward pass will follow."""
        done = self.share * len(piece.labels)
        runtime.meter.forward(done)
        if backward:
            runtime.meter.backward(done)
        return self._replay.run(piece.recording, self.names)

    def _measured_share(self, images: Tensor) -> float:
        with torch.no_grad(), FlopCounterMode(display=False) as whole:
            self.model(images.clone())
        with torch.no_grad(), FlopCounterMode(display=False) as end:
            self._replay.run(self.pieces[0].recording, self.names)
        share: float = end.get_total_flops() / max(whole.get_total_flops(), 1)
        return share
