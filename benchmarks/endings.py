"""Edits of the last layers tried on fixed images: only the end of the network runs again."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modeledit.data import Split
from modeledit.models import LoadedModel
from modeledit.runtime import Runtime
from modeledit.surgery import edited
from modeledit.tail import Tail
from modeledit.types import EditPlan, Scores

Ints = npt.NDArray[np.int64]


class Ending:
    """The logits of a split's images under edits of the parameters `names` and what follows."""

    def __init__(
        self, loaded: LoadedModel, names: Sequence[str], split: Split, runtime: Runtime
    ) -> None:
        work = copy.deepcopy(loaded.module).eval()
        batches = split.batches(runtime)
        self._tail = Tail(work, names, batches, runtime, lambda _done: None, 2**32)
        self._runtime = runtime
        self.split = split

    def logits(self, plan: EditPlan) -> Tensor:
        """(n, classes) of the edited network."""
        with edited(self._tail.model, plan):
            return self._now()

    @cached_property
    def unedited(self) -> Tensor:
        """(n, classes) of the network as it is."""
        return self._now()

    def _now(self) -> Tensor:
        with torch.inference_mode():
            return torch.cat([self._tail.logits(p, self._runtime) for p in self._tail.pieces])


def within(scores: Scores, names: Sequence[str]) -> Scores:
    """The scores of some tensors or layers alone."""
    return Scores(scores.granularity, {n: scores.values[n] for n in names}, header=scores.header)


def doublings(count: int) -> list[int]:
    """1, 2, 4 ... up to a half of `count`."""
    return [2**power for power in range((count // 2).bit_length())]


def read_rows(log: Path) -> list[str]:
    """Lines of a results file, none where there is no file yet."""
    return log.read_text().splitlines() if log.exists() else []
