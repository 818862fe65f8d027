"""Every image's own slopes in the gates of all units, from one pass over a batch.

A gated output is c + m (y - c), so its slope in m is (output - c) / m times the gradient there: no
gates for each image and no gradients of weights are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from modeledit.data import Batch
from modeledit.gate_orders import Fade
from modeledit.gate_path import Gated
from modeledit.runtime import Runtime
from modeledit.surgery import hooked

Numbers = Callable[[Tensor, Tensor], Tensor]  # (B, classes) logits, (B,) labels -> (B,)


def image_slopes(
    model: nn.Module,
    gated: Gated,
    fades: Sequence[Fade],
    gates: Tensor,
    batch: Batch,
    numbers: Numbers,
    runtime: Runtime,
) -> Tensor:
    """(B, n) float64: of each image's number in every unit's gate, at the same `gates` (n,) for
    all images. 0 where a gate is closed, and for units that cannot take their pin."""
    made: list[list[Tensor]] = [[] for _ in fades]

    def keep(into: list[Tensor]) -> Callable[[Tensor], Tensor]:
        def see(output: Tensor) -> Tensor:
            into.append(output if output.requires_grad else output.detach().requires_grad_())
            return into[-1].clone()  # the network may change what it goes on with in place

        return see

    after = [(fade.module, keep(into)) for fade, into in zip(fades, made, strict=True)]
    theta = {name: tensor.detach() for name, tensor in gated.at(gates).items()}
    with torch.enable_grad(), hooked(after):
        total = numbers(gated.logits(model, theta, batch.images), batch.labels).sum()
    flat = [output for outputs in made for output in outputs]
    gradients = iter(torch.autograd.grad(total, flat, allow_unused=True, materialize_grads=True))
    runtime.meter.forward(len(batch.labels))
    runtime.meter.backward(len(batch.labels))
    columns = [
        sum((fade.effects(output, next(gradients)) for output in outputs), torch.zeros(1, 1))
        .expand(len(batch.labels), len(fade.free))
        .cpu()
        for fade, outputs in zip(fades, made, strict=True)
    ]
    opened = torch.where(gates > 0, 1 / gates, 0.0)
    return torch.cat(columns, 1).double() * opened
