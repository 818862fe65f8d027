"""One pass over a split: what was predicted, how surely. Logits are reduced inside the pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from modeledit.data import Split
from modeledit.errors import ModelError
from modeledit.runtime import Runtime
from modeledit.surgery import evaluating

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
_COLUMNS = ("labels", "predicted", "confidence", "margin", "positions")


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's answers for n readable examples, in the order of the split.

    labels, predicted: (n,) class indices; confidence: (n,) softmax probability of the prediction;
    margin: (n,) logit of the label minus the best other logit, > 0 where the answer is right;
    positions: (n,) where the examples stand in the split.
    """

    labels: Ints
    predicted: Ints
    confidence: Floats
    margin: Floats
    positions: Ints

    def where(self, mask: npt.NDArray[np.bool_]) -> Predictions:
        """The answers for the examples of a mask."""
        return Predictions(*(getattr(self, name)[mask] for name in _COLUMNS))

    @property
    def correct(self) -> npt.NDArray[np.bool_]:
        right: npt.NDArray[np.bool_] = self.labels == self.predicted
        return right

    def __len__(self) -> int:
        return len(self.labels)


def predict(model: nn.Module, split: Split, runtime: Runtime, stage: str) -> Predictions:
    """Run a model, in eval mode meanwhile, over a split; `stage` names the pass in the progress."""
    parts: list[Predictions] = []
    stage_of = runtime.progress.stage(stage, len(split))
    with evaluating(model), torch.inference_mode(), stage_of as tick:
        for batch in split.batches(runtime):
            parts.append(reduced(model(batch.images), batch.labels, batch.indices))
            runtime.meter.forward(len(batch.labels))
            tick(len(batch.labels))
    if not parts:
        raise ModelError(f"the {split.name} split has no readable image to run the model on")
    return joined(parts)


def reduced(logits: Tensor, labels: Tensor, positions: Tensor) -> Predictions:
    """(B, C) logits, (B,) labels and positions to answers; logits that are not finite are a
    ModelError."""
    if not bool(torch.isfinite(logits).all()):
        raise ModelError("the model's outputs are not finite: is the checkpoint sound?")
    confidence, predicted = logits.float().softmax(1).max(1)
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    columns = (labels, predicted, confidence, own - others, positions)
    return Predictions(*(column.cpu().numpy() for column in columns))


def joined(parts: Sequence[Predictions]) -> Predictions:
    """All answers in the given order."""
    return Predictions(*(np.concatenate([getattr(p, name) for p in parts]) for name in _COLUMNS))
