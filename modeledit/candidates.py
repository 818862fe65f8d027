"""Several scorers for one job: each is searched, and the best on the validation split is taken."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from modeledit import plugins, report, search
from modeledit.cost import Clock
from modeledit.defaults import AUTO, CANDIDATES
from modeledit.errors import ModelEditError
from modeledit.objectives import Objective
from modeledit.report import Cost, StageCost, Trial
from modeledit.scorers import Scorer
from modeledit.selection import Strength
from modeledit.types import EditPlan, Scores

Scorers = Scorer | str | Mapping[str, Scorer]


def named(scorer: Scorers, task: str) -> dict[str, Scorer]:
    """{name: scorer}, one or several; "auto" stands for the candidates of the task."""
    if isinstance(scorer, Scorer):
        return {scorer.name: scorer}
    if isinstance(scorer, Mapping):
        if not scorer:
            raise ModelEditError("no scorer was given: name at least one")
        return dict(scorer)
    if scorer != AUTO or task not in CANDIDATES:
        return {scorer: plugins.create("scorers", scorer)}
    made = CANDIDATES[task].items()
    return {name: plugins.create("scorers", *configured) for name, configured in made}


def check(scorers: Mapping[str, Scorer], strength: Strength | str) -> None:
    """Refuse a choice that nothing could decide."""
    if len(scorers) > 1 and strength != "auto":
        raise ModelEditError(
            f"of several scorers ({', '.join(scorers)}) the search for a strength takes one, and "
            f"strength {strength} leaves nothing to search: name one --scorer, or drop --strength"
        )


@dataclass(frozen=True, eq=False)
class Attempt:
    """What a scorer came to on the validation split. trials: none where the strength was given."""

    name: str
    scores: Scores
    plan: EditPlan
    trials: tuple[Trial, ...]
    score: StageCost
    search: StageCost

    @property
    def best(self) -> Trial:
        """The trial that its search chose."""
        return next(trial for trial in self.trials if trial.chosen)


def winner(attempts: Sequence[Attempt], objective: Objective) -> Attempt:
    """The one whose chosen trial the objective prefers; the first of equal ones."""
    if len(attempts) == 1:
        return attempts[0]
    trials = [attempt.best for attempt in attempts]
    best = search.best(dict(enumerate(trials)), objective)
    return next(attempt for attempt in attempts if attempt.best is best)


def recorded(attempts: Sequence[Attempt], chosen: Attempt) -> Iterator[report.Candidate]:
    """For the report, where there was a choice."""
    for attempt in attempts if len(attempts) > 1 else ():
        yield report.Candidate(
            name=attempt.name,
            scorer=str(attempt.scores.header.get("scorer", "unknown")),
            scorer_options=dict(attempt.scores.header.get("options", {})),
            chosen=attempt is chosen,
            best=dataclasses.replace(attempt.best, chosen=attempt is chosen),
            score=attempt.score,
            search=attempt.search,
            trials=() if attempt is chosen else attempt.trials,
        )


def spared(scorers: Mapping[str, Scorer], attempts: Sequence[Attempt]) -> tuple[str, ...]:
    """A note on those that were not tried any more."""
    done = [attempt.name for attempt in attempts]
    rest = [name for name in scorers if name not in done]
    if not rest:
        return ()
    why = f"{done[-1]} left nothing to wish for on the validation split"
    return (f"{why}, so no scores of {', '.join(rest)} were tried",)


def spent(start: Cost, clock: Clock) -> dict[str, StageCost]:
    """What scoring and searching took since."""
    now = clock.cost()
    return {
        name: StageCost(then.seconds - first.seconds, then.passes - first.passes)
        for name, first, then in (
            ("score", start.score, now.score),
            ("search", start.search, now.search),
        )
    }
