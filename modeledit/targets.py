"""What a behaviour is: the examples that show it, the examples that must not suffer, and its name.

`str(target)` is the form the command line takes (`class:3,5`) and `parse` reads it back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modeledit.errors import ModelEditError

Mask = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ForgetClass:
    """The recall of some classes. Its examples are theirs; all others are to be retained."""

    classes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.classes:
            raise ModelEditError("no class to forget was given: name at least one")
        object.__setattr__(self, "classes", tuple(sorted(set(self.classes))))

    def mask(self, labels: Labels) -> Mask:
        """(n,) True for the examples that show the behaviour."""
        return np.isin(labels, self.classes)

    def __str__(self) -> str:
        return "class:" + ",".join(map(str, self.classes))


@dataclass(frozen=True)
class Accuracy:
    """Accuracy itself: every example shows it. Editing by it destroys accuracy (a control)."""

    def mask(self, labels: Labels) -> Mask:
        return np.ones(len(labels), dtype=bool)

    def __str__(self) -> str:
        return "accuracy"


Target = ForgetClass | Accuracy


def parse(text: str, class_names: Sequence[str]) -> Target:
    """`class:3`, `class:cat,5` or `accuracy`."""
    kind, _, rest = text.partition(":")
    if kind == "accuracy" and not rest:
        return Accuracy()
    if kind == "class" and rest:
        return ForgetClass(tuple(class_index(part, class_names) for part in rest.split(",")))
    raise ModelEditError(f"target {text!r} is not known: use class:NAME[,NAME...] or accuracy")


def class_index(name: str | int, class_names: Sequence[str]) -> int:
    """The index of a class given by name or number; an exact name wins over a number."""
    text = str(name).strip()
    if text in class_names:
        return list(class_names).index(text)
    if text.lstrip("-").isdigit():
        index = int(text)
        if 0 <= index < len(class_names):
            return index
        raise ModelEditError(
            f"class {index} is out of range: the model has {len(class_names)} classes, "
            f"0 to {len(class_names) - 1}"
        )
    shown = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
    raise ModelEditError(f"class {text!r} is not known: use a number or one of {shown}")
