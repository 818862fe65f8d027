"""Where architectures come from: what every source can do, torchvision's, and a user's factory."""

from __future__ import annotations

import difflib
import importlib
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import torchvision
from torch import nn

from modeledit.errors import ModelError
from modeledit.models.loaded import spec_config
from modeledit.models.preprocessing import Preprocessing
from modeledit.models.weights import State

Args = Mapping[str, Any]
IMAGENET = Preprocessing((224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 0.875)
_USUAL_CLASSES = 1000  # what torchvision builds unless told otherwise


@dataclass(frozen=True)
class Source(ABC):
    """An architecture by name and arguments."""

    scheme: ClassVar[str]
    refused: ClassVar[tuple[str, ...]] = ()  # arguments that would load or download weights

    name: str
    args: Args

    def __post_init__(self) -> None:
        for key in self.refused:
            if key in self.args:
                raise ModelError(f"argument {key} is not allowed: give the weights as --checkpoint")

    @property
    def spec(self) -> str:
        return f"{self.scheme}:{self.name}"

    @abstractmethod
    def create(self, args: Args) -> Any:
        """Call the library's constructor."""

    def build(self, args: Args) -> nn.Module:
        """The network, initialised at random; the global random numbers are not consumed."""
        try:
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about slow or changing initialisation
                built = self.create(args)
        except ModelError:
            raise
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            given = f" with {dict(args)}" if args else ""
            raise ModelError(f"{self.spec} cannot be built{given}: {reason}") from error
        if not isinstance(built, nn.Module):
            raise ModelError(f"{self.spec} gives a {type(built).__name__}, not a torch.nn.Module")
        return built

    def fitted(self, state: State) -> tuple[nn.Module, Args]:  # noqa: ARG002  (for overriders)
        """The network for these weights, and the arguments with what they tell added."""
        return self.build(self.args), self.args

    @abstractmethod
    def preprocessing(self, module: nn.Module, args: Args) -> Preprocessing | None:
        """The model's own; None if it has none."""

    def config(
        self,
        module: nn.Module,  # noqa: ARG002  (for overriders)
        args: Args,
        preprocessing: Preprocessing,
        class_names: Sequence[str] | None,
    ) -> Mapping[str, Any]:
        """What config.json holds beside weights of this model."""
        return spec_config(self.spec, args, preprocessing, class_names)


@dataclass(frozen=True)
class Torchvision(Source):
    """One of torchvision's classifiers."""

    scheme = "torchvision"
    refused = ("weights", "weights_backbone", "pretrained", "progress")

    def __post_init__(self) -> None:
        super().__post_init__()
        known = torchvision.models.list_models(module=torchvision.models)
        if self.name not in known:
            raise ModelError(unknown("torchvision", self.name, known))

    def create(self, args: Args) -> Any:
        return torchvision.models.get_model(self.name, weights=None, **args)

    def fitted(self, state: State) -> tuple[nn.Module, Args]:
        module = self.build(self.args)
        if "num_classes" in self.args:
            return module, self.args
        # Which layers are classifiers is told by their size; auxiliary ones have the same.
        counts = {
            state[name].shape[0]
            for name, own in module.state_dict().items()
            if own.shape[:1] == (_USUAL_CLASSES,)
            and name in state
            and state[name].shape[1:] == own.shape[1:]
        }
        if len(counts) != 1 or counts == {_USUAL_CLASSES}:
            return module, self.args
        args = {**self.args, "num_classes": counts.pop()}
        return self.build(args), args

    def preprocessing(self, module: nn.Module, args: Args) -> Preprocessing:  # noqa: ARG002
        # Which of several recipes trained the file is unknown; the first one is the classic.
        weights = next(iter(torchvision.models.get_model_weights(self.name)), None)
        if weights is None:
            return IMAGENET
        recipe = weights.transforms()
        crop, resized = recipe.crop_size[0], recipe.resize_size[0]
        return Preprocessing(
            (crop, crop),
            tuple(recipe.mean),
            tuple(recipe.std),
            min(1.0, crop / resized),
            recipe.interpolation.value,
        )


@dataclass(frozen=True)
class Factory(Source):
    """A function or class of the user's own, `package.module:name`."""

    scheme = "module"

    def create(self, args: Args) -> Any:
        module_name, _, attribute = self.name.partition(":")
        if not module_name or not attribute:
            raise ModelError(f"{self.spec} names no factory: write module:package.module:function")
        with working_directory_importable():
            made: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                made = getattr(made, part)
            return made(**args)

    def preprocessing(self, module: nn.Module, args: Args) -> None:  # noqa: ARG002
        return None


@contextmanager
def working_directory_importable() -> Iterator[None]:
    """The console script does not have it on its path, unlike `python -m`."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def unknown(scheme: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that a library does not have, with the nearest ones."""
    near = difflib.get_close_matches(name, list(known), n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "see that library's list_models()"
    return f"{scheme} has no classifier called {name!r}: {hint}"
