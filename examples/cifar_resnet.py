"""ResNet-18 for 32-pixel images, its stem without stride: `--model module:cifar_resnet:resnet18`.

A factory returns the network; the numbers below are what to give as --mean, --std and --input-size.
"""

from torch import nn
from torchvision.models import ResNet
from torchvision.models import resnet18 as torchvision_resnet18

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
INPUT_SIZE = 32


def resnet18(num_classes: int = 10) -> ResNet:
    """Torchvision's ResNet-18 with the stem that CIFAR-10 tables use."""
    model = torchvision_resnet18(num_classes=num_classes)
    model.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    model.maxpool = nn.Identity()
    return model
