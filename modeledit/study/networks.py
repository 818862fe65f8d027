"""A network beside itself untrained and partly trained."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from modeledit.data import Split
from modeledit.errors import ModelError
from modeledit.runtime import Runtime

_ORDER = 0x57D1  # keeps the order of training images apart from other draws of the same seed
_BATCH = 64


def untrained(model: nn.Module, seed: int) -> nn.Module:
    """A copy with every parameter drawn anew, in eval mode; the global generator is left alone.

    Modules draw as their `reset_parameters` does; parameters of modules without one (class tokens,
    positions) come from a normal distribution of deviation 0.02. An architecture's own refinements,
    such as a last norm that starts at 0, are not repeated.
    """
    work = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for module in work.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            else:
                for parameter in module.parameters(recurse=False):
                    parameter.copy_(0.02 * torch.randn(parameter.shape))
    return work.eval()


def partly_trained(
    start: nn.Module, split: Split, steps: int, runtime: Runtime, rate: float = 0.05
) -> nn.Module:
    """A copy after `steps` steps of stochastic gradient descent on cross-entropy, in eval mode.

    Batches of 64, momentum 0.9, the rate falling linearly to 0. Raises ModelError on divergence.
    """
    work = copy.deepcopy(start).to(runtime.device).requires_grad_(True).train()
    optimiser = torch.optim.SGD(work.parameters(), rate, momentum=0.9)
    done = epoch = 0
    with runtime.progress.stage("training partly", steps) as tick:
        while done < steps:
            for batch in split.batches(runtime, shuffle=True, salt=_ORDER + epoch):
                for part in torch.split(torch.arange(len(batch.labels)), _BATCH):
                    if done == steps or len(part) < 2:  # BatchNorm needs two images
                        continue
                    for group in optimiser.param_groups:
                        group["lr"] = rate * (1 - done / steps)
                    loss = F.cross_entropy(work(batch.images[part]), batch.labels[part])
                    if not bool(loss.isfinite()):
                        raise ModelError(
                            "training partly diverged: give a partly trained checkpoint instead, "
                            "or leave it out with --steps 0"
                        )
                    optimiser.zero_grad()
                    torch.autograd.backward(loss)
                    optimiser.step()
                    done += 1
                    tick(1)
            epoch += 1
    return work.eval()
