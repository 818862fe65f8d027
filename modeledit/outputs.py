"""Where the units of a layer show: which tensor, along which axis, how many.

A convolution and a linear layer show theirs in their own output. The heads of an attention block
(timm's `Attention` with fused query, key and value) show in what enters its output projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from timm.models.vision_transformer import Attention  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

Kind = Literal["conv", "linear", "head"]


@dataclass(frozen=True, eq=False)
class Point:
    """A place to watch: the output of `module`, or its input if `before`.

    units: how many there are; width: consecutive channels of each (a head's dimension, else 1).
    rows:  module that holds the weight; unit u owns `width` rows of it, from first + u*width on.
    """

    kind: Kind
    module: nn.Module
    before: bool
    units: int
    width: int
    rows: nn.Module
    first: int = 0

    def per_unit(self, output: Tensor) -> Tensor:
        """(B, channels, ...) or (B, ..., channels) -> (B, units, n), n = width times positions."""
        channels_second = output if self.kind == "conv" else output.movedim(-1, 1)
        return channels_second.reshape(len(output), self.units, -1)


def point(module: nn.Module) -> Point | None:
    """The place of a module's units; None for a module that has none (transposed ones included)."""
    if isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd):
        return Point("conv", module, False, module.out_channels, 1, module)
    if isinstance(module, nn.Linear):
        return Point("linear", module, False, module.out_features, 1, module)
    # Not isinstance: a subclass may lay out its rows in another order.
    if type(module) is Attention:
        heads, width = module.num_heads, module.head_dim
        inner = getattr(module, "norm", module.proj)
        return Point("head", inner, True, heads, width, module.qkv, first=2 * heads * width)
    return None
