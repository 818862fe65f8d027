"""What every study shares: options, loading, and the folder it leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import inputs, making
from .command import option
from .errors import PASSED
from .files import Output, check, record
from .options import FILE, Decorator, bundle
from .options_input import DataChoice, ModelChoice, data_options, model_options
from .options_run import Run, force_option, json_option, run_options
from .show import draw, emit, emit_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modeledit.data import Data
    from modeledit.models import LoadedModel
    from modeledit.runtime import Runtime
    from modeledit.study.output import Table


@dataclass(frozen=True)
class Ready:
    """Everything loaded. read: the files and folders that must not be written."""

    network: LoadedModel
    images: Data
    runtime: Runtime
    read: Sequence[Path]


@dataclass(frozen=True)
class Study:
    """The options that every study takes."""

    model: ModelChoice
    data: DataChoice
    output: Path
    as_json: bool
    force: bool
    run: Run

    def ready(self, *others: Path | None) -> Ready:
        """Refuse what could not be drawn or written, and load. others: files it reads as well."""
        inputs.check(self.model, self.data)
        read = inputs.paths(self.model, self.data, *(path for path in others if path is not None))
        check([Output("-o", self.output, folder=True)], read, force=self.force)
        from modeledit.study import drawing, output

        drawing.require()
        output.check(self.output, force=self.force, inputs=read)
        runtime = making.runtime(self.run, as_json=self.as_json)
        network, images = inputs.load(self.model, self.data, self.run.seed)

        from modeledit.judging import check_classes

        check_classes(network, images)
        return Ready(network, images, runtime, read)

    def finish(
        self,
        ready: Ready,
        header: Mapping[str, Any],
        tables: Mapping[str, Table],
        figures: Mapping[str, Figure],
        chief: str,
        summary: Sequence[Any],
    ) -> int:
        """Put the folder in its place; print the table `chief` as JSON, or the summary."""
        from modeledit.study.output import save

        named = {**header, "model": ready.network.spec, "data": ready.images.spec}
        written = save(self.output, named, tables, figures, force=self.force, inputs=ready.read)
        record(self.output)
        if self.as_json:
            emit_json({**named, chief: tables[chief].records()})
            return PASSED
        draw(*summary)
        emit(f"\nwrote  {self.output}: study.json, {_counts(written)} (PNG and SVG)\n")
        return PASSED


def _counts(written: Sequence[Path]) -> str:
    found = []
    for what, suffix in (("table", ".csv"), ("picture", ".png")):
        count = sum(path.suffix == suffix for path in written)
        found.append(f"{count} {what}{'s' * (count != 1)}")
    return ", ".join(found)


def study_options(name: str, *own: Decorator) -> Decorator:
    """The options of a study, with its own ones among them."""
    output = option(
        "-o",
        "--output",
        type=FILE,
        metavar="DIR",
        default=Path(f"modeledit-{name}"),
        show_default=True,
        group="Output",
        help="Folder of tables and pictures.",
    )
    shared: list[Decorator] = [
        model_options,
        data_options,
        *own,
        output,
        json_option,
        force_option,
        run_options,
    ]
    return bundle("study", Study, shared)
