"""From the chosen options to a runtime, scorers and an editor. torch comes in here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modeledit.defaults import AUTO
from modeledit.errors import ModelEditError

from .errors import say
from .options_edit import Editing, Scoring
from .options_run import Run

if TYPE_CHECKING:
    from modeledit.editors import Editor
    from modeledit.runtime import Runtime
    from modeledit.scorers import Scorer

PARTIAL = ".partial"  # what a sampling run keeps beside its output


def runtime(run: Run, *, as_json: bool) -> Runtime:
    """Device, batches, seed and progress."""
    import torch

    from modeledit.runtime import Runtime

    from .progress import progress

    name = run.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ModelEditError(
            f"--device {name}: torch finds {count} CUDA devices here: use --device cpu or auto"
        )
    return Runtime(
        device=device,
        batch_size=run.batch_size,
        workers=run.workers,
        seed=run.seed,
        progress=progress(wanted=not (run.quiet or as_json)),
    )


def sampling(scoring: Scoring, runtime: Runtime, output: Path, *, force: bool) -> Runtime:
    """The runtime with --budget, and with the file beside the output that --resume continues.

    What an earlier run left there is neither used nor overwritten without being told to.
    """
    from modeledit import plugins
    from modeledit.shapley.running import Budget

    budget = Budget(*scoring.budget) if scoring.budget is not None else None
    if scoring.scorer == AUTO or not plugins.load("scorers", scoring.scorer).sampled:
        asked = {"--budget": budget, "--resume": scoring.resume, "--ray": scoring.ray}
        flag = next((flag for flag, value in asked.items() if value), None)
        if flag is not None:
            raise ModelEditError(
                f"{flag} is for scorers that sample, which {scoring.scorer} does not: drop it, or "
                "use --scorer neuron-shapley"
            )
        return runtime
    kept = output.with_name(output.name + PARTIAL)
    if kept.exists() and not (scoring.resume or force):
        raise ModelEditError(
            f"{kept} holds an unfinished run: continue it with --resume, or begin anew with --force"
        )
    if scoring.resume and not kept.exists():
        say(f"note: there is no {kept} to continue, so this run begins anew")
    anew = not scoring.resume
    return replace(runtime, ray=scoring.ray, budget=budget, resume=kept, anew=anew)


def sampled(runtime: Runtime) -> None:
    """The scores are safe: what --resume would need is not needed any more."""
    from modeledit.scoring import apart

    for each in (runtime, apart(runtime)):
        if each.resume is not None:
            each.resume.unlink(missing_ok=True)


def unfinished(runtime: Runtime) -> None:
    """Nothing holds the scores but what --resume continues: it stays, and that is said."""
    if runtime.resume is not None and runtime.resume.exists():
        say(f"note: {runtime.resume} holds what was sampled, for another try with --resume")


def scorer(scoring: Scoring) -> Scorer:
    """The chosen scorer with its options."""
    made: Scorer = _create("scorers", scoring.scorer, scoring.options())
    return made


def scorers(task: str, scoring: Scoring, editing: Editing) -> dict[str, Scorer]:
    """{name: the chosen scorer}, or the candidates of the task for "auto"."""
    from modeledit import candidates

    if scoring.scorer != AUTO:
        return {scoring.scorer: scorer(scoring)}
    if scoring.options():
        raise ModelEditError(
            "--scorer auto brings its own options: name one, such as --scorer stepwise-peps, with "
            "--scorer-arg and --granularity"
        )
    found = candidates.named(AUTO, task)
    candidates.check(found, editing.strength)
    return found


def editor(editing: Editing) -> Editor:
    """The chosen editor with its options."""
    made: Editor = _create("editors", editing.editor, editing.options())
    return made


def _create(kind: Any, name: str, options: dict[str, Any]) -> Any:
    from modeledit import plugins

    try:
        return plugins.create(kind, name, options)
    except (TypeError, ValueError) as error:  # an option of the wrong kind, such as samples='many'
        raise ModelEditError(f"{name} does not take {options}: {error}") from error
