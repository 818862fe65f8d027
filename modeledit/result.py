"""An edited model that was measured: its report, its plan, and how it is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from modeledit.checkpoint import Staging, identity, read_state
from modeledit.errors import GateError, ModelEditError
from modeledit.models import LoadedModel
from modeledit.report import Report
from modeledit.report.card import model_card
from modeledit.types import EditPlan, Scores

OF_SCORES = ("seed", "keep", "attack", "parts")  # what else they were made with


@dataclass(frozen=True, eq=False)
class Result:
    """An edited model that was measured, and everything needed to write it.

    model: the network as read back from its file, in eval mode; the caller's is untouched.
    """

    report: Report
    plan: EditPlan
    scores: Scores
    model: nn.Module
    loaded: LoadedModel

    @property
    def passed(self) -> bool:
        """Whether every gate passed on the test split."""
        return self.report.passed

    def save(
        self, out: str | Path, *, force: bool = False, overwrite: bool = False, undo: bool = True
    ) -> Path:
        """Write the checkpoint directory, whole or not at all, and return its path.

        A model that failed a gate is refused unless `force`; an existing directory unless
        `overwrite`. `undo=False` leaves out the file that can bring the class back.
        """
        if not (self.passed or force):
            raise GateError(f"not saved, {self.report.verdict}: {self.report.explanation}")
        base = self.loaded.checkpoint
        with Staging(Path(out), force=overwrite, inputs=[base] if base else []) as stage:
            path = stage.write_model(self.loaded, self.plan, recipe=self.recipe(), undo=undo)
            if identity(read_state(path)) != self.report.model["edited"]:
                raise ModelEditError("the written tensors are not the ones measured: not saved")
            stage.write_text("report.json", self.report.to_json())
            stage.write_text("README.md", model_card(self.report.to_dict(), self.loaded.config))
            return stage.commit()

    def recipe(self) -> dict[str, Any]:
        """What the checkpoint's metadata says of its making; nothing that depends on time."""
        report, edit = self.report, self.report.to_dict()["edit"]
        keys = ("scorer", "scorer_options", "editor", "editor_options", "granularity", "strength")
        header = self.scores.header
        return {
            **{key: edit[key] for key in keys},
            "scores": {key: header[key] for key in OF_SCORES if key in header},
            "target": report.target,
            "seed": report.seed,
            "versions": dict(report.versions),
            "data": report.data["digest"],
        }
