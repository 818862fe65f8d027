"""Small networks, images and digests that the contract classes of `modeledit.testing` work with."""

from __future__ import annotations

import hashlib
import pickle
import random
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from modeledit.targets import ForgetClass
from modeledit.types import Scores

CLASSES = 3
TARGET = ForgetClass((1,))
SIZE = 6


class LinearNet(nn.Module):
    """Two linear layers on the pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(SIZE * SIZE, 5)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.hidden(x.flatten(1))))  # type: ignore[no-any-return]


class NormNet(nn.Module):
    """Convolutions with BatchNorm, in-place activations and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        first = self.act(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(first))
        out += first
        return self.head(F.relu_(out).mean((2, 3)))  # type: ignore[no-any-return]


class SharedNet(nn.Module):
    """One convolution, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.again = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for _ in range(2):
            x = F.relu(self.again(x))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class PlantedNet(nn.Module):
    """Filter `UNIT` alone sees class 1 (bright images) and feeds its logit."""

    UNIT: ClassVar[int] = 2

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1, bias=False)
        self.head = nn.Linear(4, CLASSES)
        with torch.no_grad():
            # Class means of the pixels are -1, 1, 0: two filters see darkness, one is faint.
            self.conv.weight.copy_(torch.tensor([-1.0, -0.5, 2.0, 0.1]).reshape(4, 1, 1, 1))
            self.head.weight.copy_(
                torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.3]])
            )
            self.head.bias.copy_(torch.tensor([0.0, -0.5, 0.6]))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x)).mean((2, 3)))  # type: ignore[no-any-return]


NETS: Mapping[str, type[nn.Module]] = MappingProxyType(
    {"linear": LinearNet, "norm": NormNet, "shared": SharedNet}
)


def net(name: str) -> nn.Module:
    """One of NETS with weights drawn from a generator of its own, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = NETS[name]()
        for buffer_name, buffer in model.named_buffers():
            if buffer_name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
            elif buffer_name.endswith("running_mean"):
                buffer.normal_(0.0, 0.2)
    return model


def images(count: int = 24, channels: int = 1) -> TensorDataset:
    """Noise around -1, 1 and 0 for the classes 0, 1 and 2 in turn."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(count) % CLASSES
    means = torch.tensor([-1.0, 1.0, 0.0])[labels]
    noise = 0.3 * torch.randn(count, channels, SIZE, SIZE, generator=generator)
    return TensorDataset(means[:, None, None, None] + noise, labels)


class Failing(torch.utils.data.Dataset[Any]):
    """The same images, but the data breaks while it is read."""

    def __init__(self, after: int = 3) -> None:
        self._data = images()
        self.targets = [int(label) for label in self._data.tensors[1]]
        self._left = after

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Any:
        self._left -= 1
        if self._left < 0:
            raise ZeroDivisionError("the data broke")
        return self._data[index]


def everything(model: nn.Module) -> str:
    """A digest of all that a caller may not find changed: the model and the global generators."""
    modules = [
        (name, m.training, sorted(k for k, v in vars(m).items() if callable(v)),
         [len(v) for k, v in sorted(vars(m).items()) if k.endswith("_hooks")])
        for name, m in model.named_modules()
    ]  # fmt: skip
    tensors = [
        (name, t.requires_grad, t.detach().numpy().tobytes(),
         None if t.grad is None else t.grad.numpy().tobytes())
        for name, t in [*model.named_parameters(), *model.named_buffers()]
    ]  # fmt: skip
    numbers = (torch.random.get_rng_state().numpy().tobytes(), random.getstate())
    state = repr(np.random.get_state())  # noqa: NPY002  (the global one is what is watched)
    return hashlib.sha256(pickle.dumps((modules, tensors, numbers, state))).hexdigest()


def fingerprint(scores: Scores) -> str:
    """A digest of the values and raw values, in their order."""
    sha = hashlib.sha256()
    for name, tensor in [*scores.values.items(), *scores.raw.items()]:
        sha.update(name.encode() + tensor.numpy().tobytes())
    return sha.hexdigest()
