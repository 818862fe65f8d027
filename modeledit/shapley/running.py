"""Running an estimator: waves, budgets, checkpoints, resuming."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from modeledit.errors import ModelEditError
from modeledit.shapley import Answer, Estimate, Estimator, Game, Task, evaluate
from modeledit.shapley.saved import fingerprint, load, save

Watch = Callable[[Estimate], None]
GLANCE = 2.0  # seconds between two calls of `watch` within a wave, at least
REST = 10  # times what the last call took until the next: an estimate can be a large fit


@runtime_checkable
class Pool(Protocol):
    """Evaluates tasks, here or elsewhere."""

    @property
    def players(self) -> int: ...

    @property
    def names(self) -> tuple[str, ...]: ...

    def map(self, tasks: Sequence[Task]) -> Iterator[Answer]:
        """One answer per task, in any order."""


@dataclass(frozen=True)
class SerialPool:
    """One task after the other, in this process."""

    game: Game

    @property
    def players(self) -> int:
        return self.game.players

    @property
    def names(self) -> tuple[str, ...]:
        return self.game.names

    def map(self, tasks: Sequence[Task]) -> Iterator[Answer]:
        """See the protocol."""
        return (evaluate(self.game, task) for task in tasks)


@dataclass(frozen=True)
class Budget:
    """evaluations: never exceeded; the last round is cut to fit. seconds: of this call, so that a
    resumed run gets them anew; no evaluation starts later. None: no limit."""

    evaluations: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.evaluations is not None and self.evaluations < 2:
            raise ModelEditError(
                f"a budget of {self.evaluations} evaluations scores nothing: give at least 2, for "
                "the whole network and for nobody alive"
            )
        if self.seconds is not None and not self.seconds > 0:
            raise ModelEditError(f"a budget of {self.seconds} seconds is none: give more than 0")


def run(
    pool: Pool | Game,
    estimator: Estimator,
    *,
    seed: int,
    budget: Budget | None = None,
    resume: Path | None = None,
    anew: bool = False,
    every: float = 60.0,
    watch: Watch | None = None,
    identity: Mapping[str, Any] | None = None,
) -> Estimate:
    """Evaluate until the estimator's own rule is met or the budget is spent.

    The same seed and budget in evaluations give the same estimate, for any number of workers and
    through any interruption: to the bit where each process has as many threads of torch, which
    otherwise differ in a value's last digits.

    resume: continued from, if it is there, and written to every `every` seconds, after each wave
        and at the end. A run can be continued with a larger budget. A file of another estimator,
        seed, game or `identity` (JSON values: digests of model and data, say) is refused and kept.
    anew: begin at the beginning although `resume` is there; it is replaced after the first wave.
    watch: given the estimate so far, after each wave and now and then, for a tenth of the time.

    Raises ModelEditError for a run without an end, and for what the estimator or game refuse.
    """
    budget = budget or Budget()
    if not estimator.stops and budget == Budget():
        raise ModelEditError(
            f"{type(estimator).__name__} has no stopping rule: give a budget in evaluations or "
            "seconds"
        )
    workers = pool if isinstance(pool, Pool) else SerialPool(pool)
    if workers.players < 1:
        raise ModelEditError("no unit can be scored: choose layers whose units can be pinned")
    going = _Run(workers, estimator, seed, budget)
    same = fingerprint(estimator, workers.players, workers.names, seed, identity or {})
    if resume is not None and resume.exists() and not anew:
        going.state, going.answers = load(resume, same)
    saved = watched = time.monotonic()
    rest = 0.0
    for wave in going.steps():
        now = time.monotonic()
        if resume is not None and (wave or now - saved > every):
            save(resume, same, going.state, going.answers)
            saved = now
        due = now - watched > (rest if wave else max(rest, GLANCE))
        if watch is not None and due and going.state.rounds:
            watch(going.estimate())
            watched = time.monotonic()
            rest = REST * (watched - now)
    if resume is not None:
        save(resume, same, going.state, going.finished())
    return going.estimate()


class _Run:
    """The state at the start of the wave under way, and the answers of its rounds so far."""

    def __init__(self, pool: Pool, estimator: Estimator, seed: int, budget: Budget) -> None:
        self._pool = pool
        self._estimator = estimator
        self._limit = budget.evaluations
        self._until = None if budget.seconds is None else time.time() + budget.seconds
        self.state = estimator.start(pool.players, len(pool.names), seed)
        self.answers: dict[int, Answer] = {}

    def steps(self) -> Iterator[bool]:
        """Go on to the end; yields after each answer, and True when a wave was absorbed."""
        while not self._estimator.done(self.state):
            tasks = self._estimator.plan(self.state)
            self.answers = {t.index: self.answers[t.index] for t in tasks if self._finished(t)}
            for batch in self._batches(tasks):
                for answer in self._pool.map(batch):
                    self.answers[answer.index] = answer
                    yield False
            if not all(self._finished(task) for task in tasks):
                return
            self._estimator.absorb(self.state, tasks, list(self.answers.values()))
            self.answers = {}
            yield True

    def estimate(self) -> Estimate:
        """Of all that is known, the wave under way included."""
        state = self.state
        known = {index: a for index, a in self.answers.items() if a.evaluations}
        if known:
            state = copy.deepcopy(state)
            tasks = [task for task in self._estimator.plan(state) if task.index in known]
            self._estimator.absorb(state, tasks, list(known.values()))
        return self._estimator.estimate(state)

    def finished(self) -> dict[int, Answer]:
        """The answers that a longer run can use."""
        if not self.answers:
            return {}
        tasks = [task for task in self._estimator.plan(self.state) if self._finished(task)]
        return {task.index: self.answers[task.index] for task in tasks}

    def _batches(self, tasks: Sequence[Task]) -> Iterator[list[Task]]:
        """What to evaluate next, until the wave is finished or the budget is spent."""
        while missing := [task for task in tasks if not self._finished(task)]:
            late = self._until is not None and time.time() > self._until
            batch = self._affordable(missing)
            if not batch or (late and self.state.rounds > 0):
                return
            # The first wave must be finished for there to be an estimate.
            until = self._until if self.state.rounds > 0 else None
            yield [replace(task, until=until) for task in batch]

    def _affordable(self, missing: Sequence[Task]) -> list[Task]:
        """The first tasks that fit the budget whatever happens, or else the start of one.

        Depends on counts alone: which rounds are run is the same for any number of workers.
        """
        if self._limit is None:
            return list(missing)
        room = self._limit - self.state.evaluations
        room -= sum(answer.evaluations for answer in self.answers.values())
        left = room - np.cumsum([task.evaluations for task in missing])
        fitting = int((left >= 0).sum())
        if fitting == 0 and room > 0:
            return [missing[0].head(room)]
        return list(missing[:fitting])

    def _finished(self, task: Task) -> bool:
        """Whether the task was evaluated as far as it goes, not just as far as a budget went."""
        answer = self.answers.get(task.index)
        return answer is not None and (answer.truncated or len(answer.values) == task.evaluations)
