"""The folder is the registry: a file of `scorers/`, `editors/` or `attacks/` is a plugin, named
like the file.

`neuron_shapley.py` is `neuron-shapley`; it holds one public class derived from the folder's base.
Other distributions add theirs through the entry-point groups `modeledit.scorers`,
`modeledit.editors` and `modeledit.attacks`. Listing imports nothing heavy: names and first lines
are read from the files.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from modeledit.errors import ModelEditError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Kind = Literal["scorers", "editors", "attacks"]
_BASES: dict[Kind, str] = {"scorers": "Scorer", "editors": "Editor", "attacks": "Attack"}
_HERE = Path(__file__).parent


def names(kind: Kind) -> list[str]:
    """Every plugin of a kind, sorted, without importing one."""
    own = [path.stem.replace("_", "-") for path in _files(kind)]
    return sorted(own + list(_foreign(kind)))


def summaries(kind: Kind) -> dict[str, str]:
    """{name: first line of its documentation}, sorted by name."""
    lines = {}
    for path in _files(kind):
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines[path.stem.replace("_", "-")] = text.partition("\n")[0]
    for name, entry in _foreign(kind).items():
        lines[name] = f"from {entry.value}"
    return dict(sorted(lines.items()))


def load(kind: Kind, name: str) -> type[Any]:
    """The plugin class called `name`."""
    foreign = _foreign(kind)
    if name in foreign:
        return foreign[name].load()  # type: ignore[no-any-return]
    if name not in names(kind):
        allowed = ", ".join(names(kind))
        raise ModelEditError(f"no {kind[:-1]} is called {name!r}: use one of {allowed}")
    module = importlib.import_module(f"modeledit.{kind}.{name.replace('-', '_')}")
    base = _base(kind)
    own = [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if cls.__module__ == module.__name__
        and issubclass(cls, base)
        and not cls.__name__.startswith("_")
    ]
    if len(own) != 1:
        raise ModelEditError(f"{module.__name__} must hold exactly one {base.__name__}")
    return own[0]


def create(kind: Kind, name: str, options: Mapping[str, Any] | None = None) -> Any:
    """An instance with the given options; an unknown option is named with the allowed ones."""
    cls = load(kind, name)
    allowed = sorted(field.name for field in fields(cls))
    unknown = sorted(set(options or {}) - set(allowed))
    if unknown:
        known = ", ".join(allowed)
        raise ModelEditError(f"{name} has no option {unknown[0]!r}: use one of {known}")
    return cls(**(options or {}))


def _base(kind: Kind) -> type[Any]:
    package = importlib.import_module(f"modeledit.{kind}")
    return getattr(package, _BASES[kind])  # type: ignore[no-any-return]


def _files(kind: Kind) -> list[Path]:
    return sorted(path for path in (_HERE / kind).glob("*.py") if not path.stem.startswith("_"))


def _foreign(kind: Kind) -> dict[str, EntryPoint]:
    # Imported here: it would double the time that `modeledit --help` takes.
    from importlib.metadata import entry_points

    return {entry.name: entry for entry in entry_points(group=f"modeledit.{kind}")}
