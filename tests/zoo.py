"""Small networks of many kinds, with random weights and far from trivial batch statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from modeledit.data import Batch
from modeledit.runtime import Runtime

CLASSES = 7


class Head(nn.Module):
    """Features, mean over space, linear classifier; the head is called `fc`."""

    def __init__(self, features: nn.Module, channels: int) -> None:
        super().__init__()
        self.features = features
        self.fc = nn.Linear(channels, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).mean((2, 3)))


class Shared(nn.Module):
    """One convolution and one norm, each run twice, and a data-dependent branch around them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.biased = nn.Conv2d(8, 8, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(images)).relu()
        for _ in range(2 if x.sum() > -1e9 else 1):
            x = x + self.norm(self.conv(x)).relu()
            x = x + self.biased(x).tanh()
        return x


class Inplace(nn.Module):
    """In-place activations wherever they can hurt, and a norm that must not pin."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, bias=False)
        self.norm_one = nn.BatchNorm2d(6)
        self.two = nn.Conv2d(6, 6, 3, bias=True)
        self.norm_two = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        images.mul_(2)
        x = self.relu(self.norm_one(self.one(images)))
        return self.norm_two(self.relu(self.two(x))).add_(1)


class Branches(nn.Module):
    """Parallel branches and a concatenation, a view of an output, depthwise and grouped rows."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, bias=False)
        self.left = nn.Sequential(nn.Conv2d(8, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.grouped = nn.Conv2d(8, 4, 1, groups=2, bias=False)
        self.norm_grouped = nn.BatchNorm2d(4)
        self.bare = nn.BatchNorm2d(4, affine=False)
        self.last = nn.Conv2d(8, 4, 1, bias=False)
        self.untracked = nn.BatchNorm2d(4, track_running_stats=False)
        self.end = nn.Conv2d(4, 8, 1, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        right = self.norm(self.depthwise(x)).relu()
        mixed = self.grouped(right)
        right = self.norm_grouped(mixed) + mixed.flatten(2).mean(2)[:, :, None, None]
        x = self.bare(self.last(torch.cat([self.left(x), right], 1)))
        return self.end(self.untracked(x + 1))


def _vgg(batch_norm: bool) -> nn.Module:
    plan: list[Any] = [6, "M", 8, 8, "M"]
    return Head(torchvision.models.vgg.make_layers(plan, batch_norm=batch_norm), 8)


def _timm(name: str, **args: Any) -> nn.Module:
    return timm.create_model(name, num_classes=CLASSES, **args)


@dataclass(frozen=True)
class Case:
    build: Callable[[], nn.Module]
    classifier: str
    layers: int
    norm: int  # how many are pinned by a norm
    zero: int  # how many can only be pinned to 0
    size: int = 32


# Counts by hand from the architectures: see the comments.
CASES = {
    # 20 convolutions, each followed by its BatchNorm.
    "resnet18": Case(lambda: torchvision.models.resnet18(num_classes=CLASSES), "fc", 20, 20, 0),
    # A stem and 8 fire modules of 3, all with bias; the classifier is a convolution.
    "squeezenet1_1": Case(
        lambda: torchvision.models.squeezenet1_1(num_classes=CLASSES), "classifier.1", 25, 0, 0, 64
    ),
    "vgg": Case(lambda: _vgg(False), "fc", 3, 0, 0),
    "vgg_bn": Case(lambda: _vgg(True), "fc", 3, 3, 0),
    # norm: conv0 and 4 times conv1; zero: 4 times conv2, which only norms of a concatenation see.
    # The transition's convolution feeds the next block's norm and its concatenation.
    "densenet": Case(
        lambda: torchvision.models.DenseNet(4, (2, 2), 8, 2, num_classes=CLASSES),
        "classifier", 10, 5, 5,
    ),
    # 52 convolutions: 18 in 9 squeeze-excitations have biases; one linear layer before the last.
    "mobilenet_v3_small": Case(
        lambda: torchvision.models.mobilenet_v3_small(num_classes=CLASSES, width_mult=0.25),
        "classifier.3", 53, 34, 0,
    ),
    "test_resnet": Case(lambda: _timm("test_resnet"), "fc", 15, 15, 0),
    # 13 convolutions with norms, two squeeze-excitations of 2 with biases.
    "test_efficientnet": Case(lambda: _timm("test_efficientnet"), "classifier", 17, 13, 0),
    "test_convnext": Case(lambda: _timm("test_convnext"), "head.fc", 31, 0, 0),
    # A patch embedding, then 6 blocks of heads, projection and 2 linear layers.
    "test_vit": Case(lambda: _timm("test_vit", img_size=32), "head", 25, 0, 0),
    "test_byobnet": Case(lambda: _timm("test_byobnet"), "head.fc", 22, 14, 0),
    "shared": Case(lambda: Head(Shared(), 8), "fc", 3, 1, 1),
    "inplace": Case(lambda: Head(Inplace(), 6), "fc", 2, 1, 0),
    # norm: left, depthwise; all others are seen by two, by an unfit norm, or by none.
    "branches": Case(lambda: Head(Branches(), 8), "fc", 6, 2, 4),
}  # fmt: skip


def build(name: str, seed: int = 0) -> nn.Module:
    """The network in eval mode, every vector and statistic randomised, the same for one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CASES[name].build()
        for module in model.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.5, 2)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.4)
    return model.eval()


def images(name: str, count: int = 2, seed: int = 1) -> Tensor:
    size = CASES[name].size
    return noise(count, 3, size, size, seed=seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def photo(width: int, height: int, mode: str = "RGB") -> Image.Image:
    channels = {"RGB": (3,), "L": (), "RGBA": (4,)}[mode]
    noise = np.random.default_rng(0).integers(0, 256, (height, width, *channels), dtype=np.uint8)
    return Image.fromarray(noise)


class Few:
    """What `record_means` needs of a split."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.tensors = batches

    def __len__(self) -> int:
        return sum(map(len, self.tensors))

    def batches(self, runtime: Runtime) -> Iterator[Batch]:
        for tensor in self.tensors:
            none = torch.zeros(len(tensor), dtype=torch.int64)
            yield Batch(tensor.to(runtime.device), none, none)
