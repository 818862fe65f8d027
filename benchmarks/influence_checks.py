"""What influence finds and how exact it is: label errors, solvers, leave-one-out retraining."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import timm
import torch
from influence_peer import correlation
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from modeledit import demo
from modeledit.data import Split
from modeledit.influence import ConjugateGradients, Lissa, influence, self_influence
from modeledit.runtime import Runtime

WRONG = 0.1  # of the labels


def trained(images: Tensor, labels: Tensor, seed: int, epochs: int = 12) -> nn.Module:
    """The demo's architecture, until it has learned the classes and not yet each wrong label."""
    generator = torch.Generator().manual_seed(seed + 1)
    torch.manual_seed(seed)
    model: nn.Module = timm.create_model(demo.ARCHITECTURE, num_classes=10, in_chans=1)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.05)
    steps = epochs * -(-len(labels) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.split(torch.randperm(len(labels), generator=generator), 64):
            loss = functional.cross_entropy(model(images[rows]), labels[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return model.eval()


def planted(seed: int) -> dict[str, Any]:
    """Train on digits of which a tenth have a wrong label, and look for these."""
    batches = list(demo.load()[1].train.batches(Runtime()))
    images = torch.cat([batch.images for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    generator = torch.Generator().manual_seed(seed)
    count = round(WRONG * len(labels))
    truth = labels.clone()
    wrong = torch.randperm(len(labels), generator=generator)[:count]
    labels[wrong] = (labels[wrong] + torch.randint(1, 10, (count,), generator=generator)) % 10
    model = trained(images, labels, seed)
    split = Split.of(TensorDataset(images, labels))
    start = time.process_time()
    own = self_influence(model, split, runtime=Runtime(seed=seed))
    total = torch.stack(list(own.values())).sum(0)
    seconds = time.process_time() - start

    def found(values: Tensor) -> float:
        top = values.argsort(descending=True)[:count]
        return float(np.isin(top.numpy(), wrong.numpy()).mean())

    with torch.no_grad():
        answers = model(images)
    loss = functional.cross_entropy(answers, labels, reduction="none")
    return {
        "images": len(labels),
        "planted": count,
        "accuracy_on_true_labels": float((answers.argmax(1) == truth).float().mean()),
        "found_in_the_top": found(total),
        "found_by_loss": found(loss),
        "seconds": seconds,
    }


def solvers(seed: int) -> dict[str, float]:
    """Largest difference from the exact solver, relative, on the demo's classifier."""
    loaded, data = demo.load()
    train, test = data.train.sample(64, seed), data.test.sample(8, seed)
    layers = [name for name, m in loaded.module.named_modules() if isinstance(m, nn.Linear)]

    def run(solver: Any) -> Tensor:
        return influence(
            loaded.module, train, test, solver=solver, layers=layers, damping=0.1,
            runtime=Runtime(batch_size=64, seed=seed),
        ).values  # fmt: skip

    exact = run("exact")
    named = {"cg": ConjugateGradients(tolerance=1e-6), "lissa": Lissa(tolerance=0.01)}
    return {
        name: float((run(solver) - exact).abs().max() / exact.abs().max())
        for name, solver in named.items()
    }


def leave_one_out(seed: int, ridge: float = 0.01) -> float:
    """Correlation of influence with the change of test losses when an image is left out.

    Logistic regression on digits 3 and 8, trained to the optimum by Newton steps.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = demo.load()[1].train
    rows = rows.where(np.isin(rows.labels, (3, 8))).sample(80, seed)
    pixels = torch.cat([batch.images for batch in rows.batches(Runtime())])
    pixels = functional.avg_pool2d(pixels, 8)  # (80, 1, 4, 4)
    labels = torch.from_numpy((rows.labels == 8).astype(np.int64))
    order = torch.randperm(80, generator=generator)
    kept, tested = order[:60], order[60:]
    flat = pixels.flatten(1).double()

    def loss(weight: Tensor, images: Tensor) -> Tensor:
        each: Tensor = functional.cross_entropy(
            flat[images] @ weight.view(2, -1).T, labels[images], reduction="none"
        )
        return each

    def fit(images: Tensor) -> Tensor:
        def objective(weight: Tensor) -> Tensor:
            return loss(weight, images).sum() / len(kept) + ridge / 2 * weight.square().sum()

        weight = torch.zeros(2 * flat.shape[1], dtype=torch.float64)
        for _ in range(20):
            slope = torch.func.grad(objective)(weight)
            weight = weight - torch.linalg.solve(torch.func.hessian(objective)(weight), slope)
        return weight

    best = fit(kept)
    model = nn.Sequential(nn.Flatten(), nn.Linear(flat.shape[1], 2, bias=False)).double()
    model.load_state_dict({"1.weight": best.view(2, -1)})
    split = Split.of(TensorDataset(pixels, labels))
    found = influence(
        model, split.subset(kept.numpy()), split.subset(tested.numpy()), solver="exact",
        curvature="hessian", damping=ridge,
    )  # fmt: skip
    before = loss(best, tested)
    actual = [loss(fit(kept[kept != image]), tested) - before for image in kept]
    return correlation(found.total(), torch.stack(actual).float())
