"""Repeat a forward pass from the first use of some parameters on, without what comes before.

`record` keeps the output of every module call of one clean pass. When only some parameters change,
`run` executes the model again and hands out the kept output for each call that ended before the
first of them was used; the rest is computed. Any control flow works, as long as it is the same
in each pass, and the numbers are those of a full pass, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from modeledit.playing import Player, Reader
from modeledit.recording import Needs, Recorder, Recording, stand_in, storage


class Replay:
    """Records passes of `model` and repeats their ends.

    limit: bytes kept of all recorded passes together; beyond it calls are executed again.
    """

    def __init__(self, model: nn.Module, limit: int) -> None:
        self._model = model
        self._room = limit
        self._fragile: set[int] = set()

    def record(self, images: Tensor, needs: Needs | None = None) -> Recording:
        """One clean forward pass without gradients; a second one where outputs change later.

        With `needs` only passes from the same parameters on can be run, and little is kept.
        """
        while True:
            recorder = Recorder(self._model, images, self._fragile, self._room, needs)
            given = images.clone()  # a model may write to its input
            with torch.no_grad(), _instrumented(self._model, recorder.call), recorder:
                recorder.recording.logits = self._model(given)
            changed = recorder.changed()
            if not changed:
                break
            self._fragile |= changed  # seen too late: the kept output is already overwritten
        self._room = recorder.room
        if needs is not None and not needs.images:
            recorder.recording.images = stand_in(images)
        return recorder.recording

    def run(self, recording: Recording, names: Sequence[str]) -> Tensor:
        """Logits of the recorded images with the parameters `names` as they are now."""
        start = _start(recording, names)
        if start is None:
            return recording.logits
        player = Player(recording, start)
        with _instrumented(self._model, player.call):
            logits: Tensor = self._model(recording.images.clone())
        return logits

    def needs(self, images: Tensor, names: Sequence[str]) -> Needs:
        """What a pass that starts at `names` reads; one or a few images tell."""
        recording = self.record(images)
        start = _start(recording, names)
        if start is None:
            return Needs()
        reader = Reader()
        player = Player(recording, start, reader)
        given = images.clone()
        with torch.no_grad(), _instrumented(self._model, player.call), reader:
            self._model(given)
        calls = (
            i
            for i, call in enumerate(recording.calls)
            if any(storage(t) in reader.read for t in player.given(call))
        )
        skipped = (i for i, storage in player.through if storage not in reader.read)
        return Needs(
            frozenset(calls), images=storage(given) in reader.read, skipped=frozenset(skipped)
        )


@contextmanager
def replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """The module's calls are `forward`'s inside the block; nothing else may have replaced them."""
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


@contextmanager
def _instrumented(model: nn.Module, call: Callable[..., Any]) -> Iterator[None]:
    """Every module's forward goes through `call(module, its forward, ...)` inside the block."""
    modules = [module for module in model.modules() if module is not model]
    own: Mapping[nn.Module, Any] = {m: vars(m)["forward"] for m in modules if "forward" in vars(m)}
    try:
        for module in modules:
            module.forward = partial(call, module, module.forward)
        yield
    finally:
        for module in modules:
            vars(module).pop("forward", None)
            if module in own:
                module.forward = own[module]


def _start(recording: Recording, names: Sequence[str]) -> int | None:
    """When the first of the parameters was first used; None if the pass used none of them."""
    return min((recording.first_use[n] for n in names if n in recording.first_use), default=None)
