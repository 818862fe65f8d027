"""Repeat a forward pass from the first use of some parameters on, without what comes before.

`record` keeps the output of every module call of one clean pass. When only some parameters change,
`run` executes the model again and hands out the kept output for each call that ended before the
first of them was used; the rest is computed. Any control flow works, as long as it is the same
in each pass, and the numbers are those of a full pass, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from modeledit.errors import ModelError


@dataclass
class _Call:
    """One call of a module: when it began and ended, and what it returned.

    `kept` is False for calls that must be executed: those that change or return their own input
    (the caller may go on using either), and those beyond the memory limit.
    """

    module: nn.Module
    began: int
    ended: int = -1
    last: int = -1  # position of the last call made inside this one
    output: Any = None
    kept: bool = False
    versions: tuple[int, ...] = ()
    fragile: bool = False  # its output is changed in place later: hand out copies
    through: bool = False  # hands its only input on, changed or not (an in-place activation)
    skipped: bool = False  # nobody reads what it hands on


@dataclass
class Recording:
    """A clean pass: its calls in the order they began, and when each parameter was first used.

    Where only the end will be repeated, what it never reads are stand-ins of the same shape.
    """

    images: Tensor
    calls: list[_Call] = field(default_factory=list)
    first_use: dict[str, int] = field(default_factory=dict)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))

    @property
    def bytes(self) -> int:
        """Memory held by images and kept outputs, shared ones counted once."""
        kept = [t for call in self.calls if call.kept for t in tree_leaves(call.output)]
        held = [*kept, self.images]
        return sum({_storage(t): t.untyped_storage().nbytes() for t in held}.values())


@dataclass(frozen=True)
class Needs:
    """What the end of a pass reads of its beginning.

    calls: positions of the calls whose outputs are read; images: whether those are.
    skipped: positions of calls that only hand on a tensor which nobody reads.
    """

    calls: frozenset[int] = frozenset()
    images: bool = False
    skipped: frozenset[int] = frozenset()


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
            recorder = _Recorder(self._model, images, self._fragile, self._room, needs)
            given = images.clone()  # a model may write to its input
            with torch.no_grad(), _instrumented(self._model, recorder.call), recorder:
                recorder.recording.logits = self._model(given)
            changed = recorder.changed()
            if not changed:
                break
            self._fragile |= changed  # seen too late: the kept output is already overwritten
        self._room = recorder.room
        if needs is not None and not needs.images:
            recorder.recording.images = _stand_in(images)
        return recorder.recording

    def run(self, recording: Recording, names: Sequence[str]) -> Tensor:
        """Logits of the recorded images with the parameters `names` as they are now."""
        start = _start(recording, names)
        if start is None:
            return recording.logits
        player = _Player(recording, start)
        with _instrumented(self._model, player.call):
            logits: Tensor = self._model(recording.images.clone())
        return logits

    def needs(self, images: Tensor, names: Sequence[str]) -> Needs:
        """What a pass that starts at `names` reads; one or a few images tell."""
        recording = self.record(images)
        start = _start(recording, names)
        if start is None:
            return Needs()
        reader = _Reader()
        player = _Player(recording, start, reader)
        given = images.clone()
        with torch.no_grad(), _instrumented(self._model, player.call), reader:
            self._model(given)
        calls = (
            i
            for i, call in enumerate(recording.calls)
            if any(_storage(t) in reader.read for t in player.given(call))
        )
        skipped = (i for i, storage in player.through if storage not in reader.read)
        return Needs(
            frozenset(calls), images=_storage(given) in reader.read, skipped=frozenset(skipped)
        )


class _Recorder(TorchFunctionMode):
    """Keeps outputs and watches every torch operation for the first use of each parameter."""

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        fragile: set[int],
        limit: int,
        needs: Needs | None,
    ) -> None:
        super().__init__()
        self._needs = needs
        self.recording = Recording(images)
        self._names = {id(p): name for name, p in model.named_parameters()}
        self._fragile = fragile
        self.room = limit
        self._clock = 0
        self._held: set[int] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        for leaf in tree_leaves((args, kwargs)):
            name = self._names.get(id(leaf))
            if name is not None:
                self.recording.first_use.setdefault(name, self._clock)
        return func(*args, **(kwargs or {}))

    def call(
        self, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        position = len(self.recording.calls)
        call = _Call(module, self._tick())
        self.recording.calls.append(call)
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        before = [t._version for t in inputs]
        output = forward(*args, **kwargs)
        call.ended = self._tick()
        call.last = len(self.recording.calls) - 1
        leaves = tree_leaves(output)
        if not all(isinstance(t, Tensor) for t in leaves):
            return output
        own = {_storage(t) for t in inputs}
        call.through = len(args) == 1 and not kwargs and output is args[0]
        call.skipped = self._needs is not None and position in self._needs.skipped
        same = [t._version for t in inputs] == before
        if same and not any(_storage(t) in own for t in leaves):
            call.fragile = position in self._fragile
            if self._needs is None or position in self._needs.calls:
                self._keep(call, output, leaves)
            else:
                call.kept, call.output = True, tree_map(_stand_in, output)
                call.versions = tuple(t._version for t in tree_leaves(call.output))
        return output

    def _keep(self, call: _Call, output: Any, leaves: list[Tensor]) -> None:
        fresh = {_storage(t): t.untyped_storage().nbytes() for t in leaves}
        new = fresh if call.fragile else {k: n for k, n in fresh.items() if k not in self._held}
        size = sum(new.values())
        if size > self.room:
            return
        self.room -= size
        self._held |= set(new)
        call.output = tree_map(torch.clone, output) if call.fragile else output
        call.versions = tuple(t._version for t in tree_leaves(call.output))
        call.kept = True

    def changed(self) -> set[int]:
        """Positions of calls whose kept output was changed in place after they returned."""
        return {
            i
            for i, call in enumerate(self.recording.calls)
            if call.kept and tuple(t._version for t in tree_leaves(call.output)) != call.versions
        }

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


class _Reader(TorchFunctionMode):
    """Notes the storage of every tensor that a torch operation reads, unless it looks away."""

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()
        self.away = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        if not self.away:
            leaves = tree_leaves((args, kwargs))
            self.read |= {_storage(leaf) for leaf in leaves if isinstance(leaf, Tensor)}
        return func(*args, **(kwargs or {}))


class _Player:
    """Hands out what was recorded before `start`, then executes.

    through: position and storage of each call before `start` that handed its input on; a reader
    looks away from them, as they matter only if somebody else reads that tensor.
    """

    def __init__(self, recording: Recording, start: int, reader: _Reader | None = None) -> None:
        self._reader = reader
        self.through: list[tuple[int, int]] = []
        self._calls = recording.calls
        self._start = start
        self._next = 0
        self._given: dict[int, list[Tensor]] = {}

    def given(self, call: _Call) -> list[Tensor]:
        """The tensors handed out for a call; none where it was inside another or executed."""
        return self._given.get(call.began, [])

    def call(
        self, module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        position = self._next
        if position >= len(self._calls) or self._calls[position].began >= self._start:
            return forward(*args, **kwargs)
        call = self._calls[position]
        if call.module is not module:
            raise ModelError(
                f"the model took another path in a second pass (at {type(module).__name__}): "
                "its parameters can only be perturbed together, use neighbourhood=joint"
            )
        if call.ended < self._start:
            if call.kept:
                self._next = call.last + 1
                output = tree_map(torch.clone, call.output) if call.fragile else call.output
                self._given[call.began] = tree_leaves(output)
                return output
            if call.skipped:
                self._next = call.last + 1
                return args[0]
            if call.through and self._reader is not None:
                return self._looking_away(self._reader, position, forward, args[0])
        self._next = position + 1
        return forward(*args, **kwargs)

    def _looking_away(
        self, reader: _Reader, position: int, forward: Callable[..., Any], tensor: Tensor
    ) -> Any:
        self._next = position + 1
        reader.away = True  # from here on: asking for the storage would count as reading
        try:
            self.through.append((position, _storage(tensor)))
            return forward(tensor)
        finally:
            reader.away = False


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


def _stand_in(tensor: Tensor) -> Tensor:
    """A tensor of the same shape, type and device that takes no memory."""
    return tensor.new_zeros(()).expand(tensor.shape)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
