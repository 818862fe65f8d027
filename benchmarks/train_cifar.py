"""Train the networks that the tables edit.

    python benchmarks/train_cifar.py cifar10 --data folder:cifar10.zip -o FILE
    python benchmarks/train_cifar.py fashion-mnist --data idx:DIR -o FILE
    python benchmarks/train_cifar.py cifar10-small --data folder:cifar10.zip -o FILE

cifar10: ResNet-18 with the CIFAR stem for 40 epochs, about 95 %, the base of tables beside the
literature; minutes on a GPU, a day on two cores. fashion-mnist: timm's resnet18 for 4 epochs, about
92 %. cifar10-small: a ResNet-20 for 2 epochs, six minutes on one core, for attacks that come from
another network (--transfer of hardening.py). Stopped and called again, it goes on after the last
finished epoch. Trained is on the train split without the validation images that are cut from it:
those of a table with the same seed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from small_networks import resnet20
from torch import nn
from training import Recipe, finish, fit

from modeledit import load_data
from modeledit.models import Preprocessing
from modeledit.runtime import Runtime

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import cifar_resnet

RECIPES = {
    "cifar10": Recipe(epochs=40, rate=0.2, label_smoothing=0.1, pad=4, flip=True),
    "cifar10-small": Recipe(epochs=2, rate=0.2, flip=True),
    "fashion-mnist": Recipe(epochs=4, rate=0.1),
}
INPUTS = {
    "cifar10": Preprocessing((32, 32), cifar_resnet.MEAN, cifar_resnet.STD),
    "cifar10-small": Preprocessing((32, 32), cifar_resnet.MEAN, cifar_resnet.STD),
    "fashion-mnist": Preprocessing((28, 28), (0.2860,), (0.3530,)),
}
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "cifar10": cifar_resnet.resnet18,
    "cifar10-small": resnet20,
    "fashion-mnist": lambda: timm.create_model("resnet18", num_classes=10, in_chans=1),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", choices=sorted(RECIPES))
    parser.add_argument("--data", required=True)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args()
    runtime = Runtime(torch.device(chosen.device), batch_size=512, seed=chosen.seed)
    data = load_data(chosen.data, INPUTS[chosen.dataset], seed=chosen.seed)
    torch.manual_seed(chosen.seed)
    model = NETWORKS[chosen.dataset]().to(runtime.device, memory_format=torch.channels_last)
    fit(model, data.train, RECIPES[chosen.dataset], runtime, chosen.out.with_suffix(".state.pt"))
    finish(model, data, runtime, chosen.out)


if __name__ == "__main__":
    main()
