"""Pools of workers: the same answers, whatever happens to the workers."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from contextlib import nullcontext

import pytest
from worker_cases import PLAYERS, Toy, ToySpec, assert_same, wave

from modeledit.errors import DataError, ModelEditError
from modeledit.shapley import Task, evaluate, workers
from modeledit.shapley.crew import TRIES, Crew, Failed, Lost, Message, Opened, Worker, attempt
from modeledit.shapley.workers import ProcessPool, pool_for


class Fakes(Crew[Worker]):
    """Workers without processes. `outcome`: what becomes of a task, None for the answer."""

    advice = "try something else"

    def __init__(
        self, workers: int, outcome: Callable[[Task], Message | None], opens: str = "yes"
    ) -> None:
        self.outcome, self.opens = outcome, opens
        self.hired: list[Worker] = []
        self.ended: list[Worker] = []
        super().__init__(workers)

    def _hire(self) -> None:
        self.hired.append(Worker())
        self._staff.append(self.hired[-1])

    def _give(self, worker: Worker, task: Task) -> None:
        assert worker.ready
        assert worker.task is task

    def _wait(self) -> list[tuple[Worker, Message]]:
        """The last one speaks first."""
        speaker = [w for w in self._staff if w.task is not None or not w.ready][-1]
        if speaker.task is not None:
            answer = evaluate(ToySpec().open(), speaker.task)
            return [(speaker, self.outcome(speaker.task) or answer)]
        opened = Opened(PLAYERS, Toy.names)
        return [(speaker, opened if self.opens == "yes" else Lost("by itself"))]

    def _end(self, worker: Worker) -> None:
        self.ended.append(worker)


def test_a_lost_workers_round_goes_to_another() -> None:
    lost = []

    def outcome(task: Task) -> Message | None:
        if task.index in (1, 3) and lost.count(task.index) < TRIES - 1:
            lost.append(task.index)
            return Lost("by itself")
        return None

    with Fakes(2, outcome) as crew:
        assert (crew.players, crew.names) == (PLAYERS, ("sum", "root"))
        assert_same(list(crew.map(wave())), wave())
        assert sorted(lost) == [1] * (TRIES - 1) + [3] * (TRIES - 1)
        assert len(crew.hired) == 2 + len(lost)
        assert len(crew._staff) == 2
        assert list(crew.map([])) == []
        lost.clear()
        assert_same(list(crew.map(wave())), wave())  # a new wave, new tries
    assert sorted(map(id, crew.ended)) == sorted(map(id, crew.hired))


def test_a_round_that_ends_every_worker_is_given_up() -> None:
    with Fakes(1, lambda _task: Lost("by SIGKILL")) as crew:
        expected = f"^{TRIES} workers were lost over round 0, the last one by SIGKILL: try some"
        with pytest.raises(ModelEditError, match=expected):
            list(crew.map(wave()))
        assert len(crew.hired) == TRIES
    assert crew.ended == crew.hired


def test_workers_that_never_start_are_given_up() -> None:
    with pytest.raises(ModelEditError, match=f"^{TRIES} workers in a row .* by itself: try some"):
        Fakes(2, lambda _task: None, opens="no")


def test_an_error_is_raised_and_others_work_is_given_up() -> None:
    with Fakes(3, lambda task: Failed(DataError("bad")) if task.index == 2 else None) as crew:
        with pytest.raises(DataError, match=r"^bad$"):
            list(crew.map(wave()))
        assert not any(w.task for w in crew._staff)
        assert_same(list(crew.map(wave(2))), wave(2))


def test_a_wave_that_is_left_does_not_turn_up_later() -> None:
    with Fakes(2, lambda _task: None) as crew:
        answers = crew.map(wave())
        next(answers)
        answers.close()
        assert not any(w.task for w in crew._staff)
        assert_same(list(crew.map(wave(2))), wave(2))


class Prefixed(Exception):
    """Whose copy is another."""

    def __init__(self, text: str) -> None:
        super().__init__(f"odd: {text}")


def test_errors_travel() -> None:
    class Local(Exception):  # cannot be pickled
        pass

    def fail(error: Exception) -> Exception:
        def work() -> None:
            raise error

        found = attempt(work)
        assert isinstance(found, Failed)
        return pickle.loads(pickle.dumps(found.error))

    known = fail(DataError("no images"))
    assert (type(known), str(known)) == (DataError, "no images")
    assert "in work" in known.__notes__[0]
    unknown = fail(Local("odd"))
    assert (type(unknown), str(unknown)) == (RuntimeError, "Local: odd")
    changed = fail(Prefixed("text"))
    assert (type(changed), str(changed)) == (RuntimeError, "Prefixed: odd: text")


def test_pools_by_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelEditError, match=r"^0 workers"):
        ProcessPool(ToySpec(), 0)
    for few in (0, 1):
        with pool_for(ToySpec(), few) as pool:
            assert_same(list(pool.map(wave())), wave())
    monkeypatch.setattr(workers, "ProcessPool", lambda _spec, count: nullcontext(count))
    with pool_for(ToySpec(), 3) as pool:
        assert pool == 3
