"""What batches hold, as numbers."""

from __future__ import annotations

import torch

from modeledit.runtime import Runtime

SMALL = Runtime(batch_size=4)


def values(split, runtime=SMALL, **options):
    """[(pixel value, label, position)] of all batches."""
    found = []
    for batch in split.batches(runtime, **options):
        assert batch.images.dtype == torch.float32
        assert batch.labels.dtype == batch.indices.dtype == torch.int64
        pixels = batch.images[:, 0, 0, 0].tolist()
        found += zip(pixels, batch.labels.tolist(), batch.indices.tolist(), strict=True)
    return found
