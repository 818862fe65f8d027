"""Train the demo's network on scikit-learn's digits and write its checkpoint beside this file.

    python -m modeledit.demo.train
    python -m modeledit.demo.train --seed 1 -o FILE

The second is another network of the same kind, for attacks that come from elsewhere. About a minute
on two cores. The same seed and versions give the same file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timm.layers.norm_act import BatchNormAct2d
from torch import nn
from torch.nn import functional

from modeledit.demo import ARCHITECTURE, NAMES, WEIGHTS, digits, preprocessing
from modeledit.eval.predictions import predict
from modeledit.runtime import Runtime


def train(epochs: int, seed: int, filter_dropout: float = 0.0) -> nn.Module:
    """A network fitted on the training split alone, with small random shifts.

    filter_dropout: 0..1, how often each filter behind a BatchNorm is left out of a training step.
    """
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(ARCHITECTURE, num_classes=len(NAMES), in_chans=1)
    for module in model.modules() if filter_dropout else ():
        if isinstance(module, BatchNormAct2d):
            module.drop = nn.Dropout2d(filter_dropout)
    runtime = Runtime(batch_size=64, seed=seed)
    split = digits(preprocessing()).train
    steps = epochs * -(-len(split) // runtime.batch_size)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    generator = runtime.generator()
    for epoch in range(epochs):
        model.train()
        for batch in split.batches(runtime, shuffle=True, salt=epoch):
            images = shifted(batch.images, generator)
            loss = functional.cross_entropy(model(images), batch.labels, label_smoothing=0.05)
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()
    return model.eval()


def shifted(images: torch.Tensor, generator: torch.Generator, most: int = 3) -> torch.Tensor:
    """The batch moved by up to `most` pixels in each direction, edges repeated."""
    rows, columns = torch.randint(2 * most + 1, (2,), generator=generator).tolist()
    padded = functional.pad(images, [most] * 4, mode="replicate")
    height, width = images.shape[-2:]
    return padded[..., rows : rows + height, columns : columns + width]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, default=WEIGHTS)
    chosen = parser.parse_args()
    model = train(chosen.epochs, chosen.seed)
    data = digits(preprocessing())
    for split in (data.train, data.validation, data.test):
        answers = predict(model, split, Runtime(), split.name)
        print(f"{split.name}: {answers.correct.mean():.4f} of {len(answers)}")
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, chosen.out, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
