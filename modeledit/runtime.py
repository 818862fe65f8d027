"""How a computation runs: device, batches, randomness, progress and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

if TYPE_CHECKING:
    from modeledit.shapley.running import Budget

Tick = Callable[[int], None]


class Progress(Protocol):
    """Told what is going on; the command line draws it, a library caller may ignore it."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Tick]:
        """A stage of `total` steps; call the yielded function with the number just done."""

    def status(self, text: str) -> None:
        """What stands at this moment, in one line that replaces the one before."""


class Silent:
    """Progress that nobody watches."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Tick]:  # noqa: ARG002  (the protocol's)
        yield lambda _done: None

    def status(self, text: str) -> None:
        """Nothing is shown."""


@dataclass
class Meter:
    """Forward-equivalent images: a forward pass of one image is 1, its backward pass 2 more."""

    images: float = 0.0

    def forward(self, images: float) -> None:
        self.images += images

    def backward(self, images: float) -> None:
        self.images += 2 * images


@dataclass(frozen=True)
class Runtime:
    """Where and how to run. `seed` feeds local generators only; the global ones stay untouched.

    workers: processes that read images, or that evaluate where a scorer samples. For these alone:
    ray, the address of a Ray cluster to evaluate on ("auto" finds one); budget, how long to go on;
    resume, a file to continue from if it is there and to keep up to date, for the caller to delete
    in the end; anew, what it holds is not used, and stays until there is something to replace it.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    batch_size: int = 128
    workers: int = 0
    seed: int = 0
    progress: Progress = field(default_factory=Silent)
    meter: Meter = field(default_factory=Meter)
    ray: str | None = None
    budget: Budget | None = None
    resume: Path | None = None
    anew: bool = False

    def generator(self, *salt: int) -> torch.Generator:
        """A CPU generator that depends on the seed and the salt alone."""
        state = self.seed
        for part in salt:
            state = (state * 1_000_003 + part + 1) % (2**63)
        return torch.Generator().manual_seed(state)

    def metered(self) -> Runtime:
        """The same runtime with a meter of its own, starting at 0."""
        return replace(self, meter=Meter())
