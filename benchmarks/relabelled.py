"""Real images under a network's own answers, where the data it was trained on is not at hand."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.utils.data import TensorDataset

import modeledit
from modeledit.data import Data, Split
from modeledit.judging import Baseline
from modeledit.models import LoadedModel
from modeledit.runtime import Runtime

DRAWN, KEPT = 600, 200  # images a split: drawn, and of these the ones it is surest of


def lite0(spec: str, checkpoint: Path, seed: int) -> Baseline:
    """EfficientNet-lite0 of ImageNet on other pictures; its clean accuracy is 1 by construction."""
    loaded = modeledit.load_model("timm:tf_efficientnet_lite0", checkpoint)
    found = modeledit.load_data(spec, loaded.preprocessing, limit=DRAWN, seed=seed)
    return answered(loaded, found, KEPT)


def squeezenet(checkpoint: Path) -> LoadedModel:
    """Another network of the same classes, which takes images of any size."""
    return modeledit.load_model("torchvision:squeezenet1_1", checkpoint)


def answered(loaded: LoadedModel, found: Data, most: int) -> Baseline:
    """On at most so many images a split, those it is surest of, with its answers as labels."""
    splits = (found.train, found.validation, found.test)
    kept = [surest(loaded, split, min(most, len(split))) for split in splits]
    return Baseline(loaded, Data.of(*kept, list(map(str, range(loaded.num_classes)))))


def surest(loaded: LoadedModel, split: Split, count: int) -> TensorDataset:
    """The `count` images whose answer the network gives the largest probability, so labelled."""
    module, shown, chances, answers = loaded.module.eval(), [], [], []
    with torch.inference_mode():
        for batch in split.batches(Runtime(batch_size=16)):
            chance, answer = module(batch.images).softmax(1).max(1)
            shown.append(batch.images)
            chances.append(chance)
            answers.append(answer)
    kept = torch.cat(chances).topk(count)
    print(f"{split.name}: the least sure has {float(kept.values.min()):.2f}", flush=True)
    rows = kept.indices.sort().values
    return TensorDataset(torch.cat(shown)[rows], torch.cat(answers)[rows])
