"""Score, edit and judge trained vision classifiers.

The public names, loaded when first used: `import modeledit` imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modeledit.data import Data, Split, load_data
    from modeledit.errors import ModelEditError
    from modeledit.models import LoadedModel, load_model
    from modeledit.pipeline import measure, unlearn
    from modeledit.repairs import harden, repair_fairness
    from modeledit.report import Report
    from modeledit.result import Result
    from modeledit.runtime import Runtime
    from modeledit.surgery import apply
    from modeledit.targets import Accuracy, ForgetClass
    from modeledit.types import Change, EditPlan, Scores, Unit

_HOME = {
    "Accuracy": "targets",
    "Change": "types",
    "Data": "data",
    "EditPlan": "types",
    "ForgetClass": "targets",
    "LoadedModel": "models",
    "ModelEditError": "errors",
    "Report": "report",
    "Result": "result",
    "Runtime": "runtime",
    "Scores": "types",
    "Split": "data",
    "Unit": "types",
    "apply": "surgery",
    "harden": "repairs",
    "load_data": "data",
    "load_model": "models",
    "measure": "pipeline",
    "repair_fairness": "repairs",
    "unlearn": "pipeline",
}

__all__ = [
    "Accuracy",
    "Change",
    "Data",
    "EditPlan",
    "ForgetClass",
    "LoadedModel",
    "ModelEditError",
    "Report",
    "Result",
    "Runtime",
    "Scores",
    "Split",
    "Unit",
    "apply",
    "harden",
    "load_data",
    "load_model",
    "measure",
    "repair_fairness",
    "unlearn",
    "versions",
]


def versions() -> dict[str, str]:
    """Versions of modeledit and of the libraries whose numbers end up in a result."""
    libraries = ("safetensors", "timm", "torch", "torchvision")
    return {name: _version(name) for name in ("modeledit", *libraries)}


def _version(name: str) -> str:
    # Imported here: it would double the time that `modeledit --help` takes.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:  # running from a source tree that is not installed
        return "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version("modeledit")
    if name not in _HOME:
        raise AttributeError(f"module 'modeledit' has no attribute {name!r}")
    return getattr(import_module(f"modeledit.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
