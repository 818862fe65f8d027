"""What `unlearn`, `repair` and `harden` share: options, and the way from them to an edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from modeledit.defaults import EDITOR, SCORER

from . import given, inputs, making
from .errors import PASSED
from .estimate import show_estimate
from .finish import Destination, finish
from .options import Decorator, bundle
from .options_edit import Editing, Scoring, editing_with, keep_option, scoring_with
from .options_input import (
    DataChoice,
    ModelChoice,
    data_options,
    hold_out_option,
    model_options,
)
from .options_measure import Attacking, attack_options, positive_option
from .options_run import (
    Printing,
    Run,
    Saving,
    force_option,
    printing_options,
    run_options,
    save_scores_option,
    saving_options,
)

if TYPE_CHECKING:
    from modeledit.data import Data
    from modeledit.editors import Editor
    from modeledit.eval.aspects import Aspects
    from modeledit.layer_choice import Layers
    from modeledit.models import LoadedModel
    from modeledit.result import Result
    from modeledit.runtime import Runtime
    from modeledit.scorers import Scorer
    from modeledit.targets import Target
    from modeledit.types import Scores


@dataclass(frozen=True)
class Ready:
    """Everything loaded. runtime: for the run itself, with what sampling needs. scores: made
    before, in the place of `scorers`."""

    network: LoadedModel
    images: Data
    scorers: Mapping[str, Scorer]
    editor: Editor
    keep: Target | None
    aspects: Aspects
    runtime: Runtime
    scores: Scores | None = None

    @property
    def scorer(self) -> Scorer:
        """The one there is, for jobs that take no more."""
        (scorer,) = self.scorers.values()
        return scorer


@dataclass(frozen=True)
class Job:
    """The options that every job takes."""

    model: ModelChoice
    data: DataChoice
    hold_out: float
    positive: str
    attacking: Attacking
    scoring: Scoring
    keep: str | None
    editing: Editing
    saving: Saving
    printing: Printing
    save_scores: Path | None
    force: bool
    run: Run

    @property
    def to(self) -> Destination:
        """Where everything goes."""
        return Destination(self.saving, self.printing, self.save_scores, self.force)

    def ready(
        self,
        task: Literal["unlearn", "repair", "harden"],
        *,
        groups: bool,
        attack: str | None = None,
        scores: Path | None = None,
    ) -> Ready:
        """Refuse what cannot work, the cheap checks first, and load the rest.

        task: the job's name. groups: whether they are compared. attack: the one that is tried
        without being named. scores: their file, if they were made before.
        """
        inputs.check(self.model, self.data)
        tried = self.attacking.chosen(attack)
        if not self.saving.dry_run:
            self.to.check(inputs.paths(self.model, self.data, *([scores] if scores else [])))
        found, scorers = None, {}
        if scores is not None and task != "unlearn":
            given.refuse_scoring()
            found = given.scores(scores, task)
            tried = tried if self.attacking.stated else given.attack_of(found) or tried
        else:
            scorers = making.scorers(task, self.scoring, self.editing)
        editor = making.editor(self.editing)
        runtime = making.runtime(self.run, as_json=self.printing.as_json)
        if not self.saving.dry_run and found is None:
            beside = self.save_scores or self.saving.output
            runtime = making.sampling(self.scoring, runtime, beside, force=self.force)
        network, images = inputs.load(self.model, self.data, self.run.seed)
        if self.hold_out:
            images = images.held_out(self.hold_out, self.run.seed)
        keep = inputs.target(self.keep if found is None else None, images)
        positive = self.positive if groups else None
        aspects = inputs.aspects(network, images, tried, self.attacking, positive)
        return Ready(network, images, scorers, editor, keep, aspects, runtime, found)

    def estimate(self, ready: Ready, target: Target, layers: Layers | None = None) -> int:
        """--dry-run: what it would take."""
        from modeledit.estimate import estimated

        if ready.scores is not None:
            given.check_scores(ready.scores, ready.network, ready.images)
        found = estimated(
            ready.network,
            ready.images,
            target,
            ready.scorers.values(),
            self.editing.strength,
            ready.runtime,
            ready.editor,
            layers,
            ready.keep,
            ready.aspects,
        )
        return show_estimate(found, self.printing, verbose=self.run.verbose)

    def finish(self, ready: Ready, result: Result) -> int:
        """Write and print, then drop what --resume would need, if the scores are safe."""
        code = finish(result, self.to, verbose=self.run.verbose)
        if code == PASSED or self.save_scores is not None:
            making.sampled(ready.runtime)
        else:
            making.unfinished(ready.runtime)
        return code


def job_options(
    name: str,
    attack: str | None = None,
    *,
    data: Sequence[Decorator] = (),
    scoring: Sequence[Decorator] = (),
    editing: Sequence[Decorator] = (),
    gates: Sequence[Decorator] = (),
) -> Decorator:
    """The options of a job, with its own ones among them, in the order of the help.

    name: decides the scorer and the editor without --scorer and --editor. attack: see
    `attack_options`.
    """
    return bundle(
        "job",
        Job,
        [
            model_options,
            data_options,
            hold_out_option,
            *data,
            positive_option,
            attack_options(attack),
            scoring_with(SCORER[name]),
            *scoring,
            keep_option,
            *editing,
            editing_with(EDITOR[name]),
            *gates,
            saving_options,
            printing_options,
            save_scores_option,
            force_option,
            run_options,
        ],
    )
