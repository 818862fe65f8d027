"""A plain training loop for the networks that the tables edit: SGD, one cycle, crops and flips."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from modeledit.data import Data, Split
from modeledit.eval.predictions import predict
from modeledit.runtime import Runtime


@dataclass(frozen=True)
class Recipe:
    """pad: pixels of reflected border that random crops move over. flip: mirror at random."""

    epochs: int
    rate: float
    weight_decay: float = 5e-4
    batch_size: int = 128
    label_smoothing: float = 0.0
    pad: int = 0
    flip: bool = False


def fit(model: nn.Module, train: Split, recipe: Recipe, runtime: Runtime, state: Path) -> None:
    """Train in place; after every epoch all is kept in `state`, from where a later call goes on."""
    torch.manual_seed(runtime.seed)
    runtime = replace(runtime, batch_size=recipe.batch_size)
    steps = -(-len(train) // recipe.batch_size)
    optimiser = torch.optim.SGD(
        model.parameters(),
        recipe.rate,
        momentum=0.9,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.rate, total_steps=steps * recipe.epochs
    )
    parts: Mapping[str, Any] = {"model": model, "optimiser": optimiser, "schedule": schedule}
    for epoch in range(_resume(parts, state), recipe.epochs):
        start, total = time.perf_counter(), 0.0
        model.train()
        generator = runtime.generator(epoch)
        for batch in train.batches(runtime, shuffle=True, salt=epoch):
            images = augmented(batch.images, recipe, generator)
            images = images.to(memory_format=torch.channels_last)
            loss = functional.cross_entropy(
                model(images), batch.labels, label_smoothing=recipe.label_smoothing
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item() * len(batch.labels)
        kept = {name: part.state_dict() for name, part in parts.items()} | {"epoch": epoch + 1}
        torch.save(kept, state)
        print(f"{epoch + 1}: loss {total / len(train):.4f}, {time.perf_counter() - start:.0f} s")


def augmented(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """(B, C, H, W): each image moved and mirrored by its own draw."""
    size, (height, width) = len(images), images.shape[-2:]
    if recipe.flip:
        mirrored = torch.rand(size, generator=generator) < 0.5
        images = torch.where(
            mirrored.to(images.device)[:, None, None, None], images.flip(3), images
        )
    if not recipe.pad:
        return images
    padded = functional.pad(images, [recipe.pad] * 4, mode="reflect")
    moves = torch.randint(2 * recipe.pad + 1, (2, size), generator=generator).tolist()
    places = zip(padded, *moves, strict=True)
    return torch.stack([one[:, y : y + height, x : x + width] for one, y, x in places])


def finish(model: nn.Module, data: Data, runtime: Runtime, out: Path) -> None:
    """Print the accuracy on test and write the weights."""
    model.eval()
    answers = predict(model, data.test, runtime, "test")
    print(f"test accuracy {answers.correct.mean():.4f} of {len(answers)}")
    save_file(
        {n: t.cpu().contiguous() for n, t in model.state_dict().items()}, out, {"format": "pt"}
    )


def _resume(parts: Mapping[str, Any], state: Path) -> int:
    if not state.exists():
        return 0
    kept = torch.load(state, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(kept[name])
    return int(kept["epoch"])
