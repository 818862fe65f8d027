"""Runs: budgets, checkpoints, resuming, any number of workers."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from shapley_games import planted, random_game

from modeledit.errors import ModelEditError
from modeledit.shapley import evaluate, running
from modeledit.shapley.cmcs import Cmcs
from modeledit.shapley.leverage import LeverageCentred
from modeledit.shapley.permutation import Antithetic, Permutation
from modeledit.shapley.racing import Racing
from modeledit.shapley.running import Budget, SerialPool, run
from modeledit.shapley.tmab import Tmab

ESTIMATORS = [
    Permutation(),
    Permutation(truncation=0.3, patience=1),
    Antithetic(),
    Cmcs(),
    Tmab(k=2, tolerance=1e-4),
    Racing(k=2, tolerance=1e-4),
    Racing(k=2, tolerance=1e-3, relative=True),
    Tmab(k=2, tolerance=1e-3, relative=True),
]


@dataclass
class Shuffled:
    """A pool whose workers answer in any order."""

    game: object
    seed: int

    @property
    def players(self):
        return self.game.players

    @property
    def names(self):
        return self.game.names

    def map(self, tasks):
        order = np.random.default_rng(self.seed).permutation(len(tasks))
        return (evaluate(self.game, tasks[i]) for i in order)


class Stopping(Exception):
    """The run is interrupted."""


class Interrupted(Shuffled):
    """Dies after so many answers."""

    def map(self, tasks):
        for answer in SerialPool(self.game).map(tasks):
            if self.seed == 0:
                raise Stopping
            self.seed -= 1
            yield answer


def same(a, b):
    return (
        a.values.tobytes() == b.values.tobytes()
        and a.half_width.tobytes() == b.half_width.tobytes()
        and a.evaluations == b.evaluations
    )


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize("evaluations", [2, 3, 5, 8, 47, 120])
def test_the_budget_is_exact(estimator, evaluations):
    played = planted(7, 2)
    found = run(played, estimator, seed=0, budget=Budget(evaluations))
    assert found.evaluations == played.asked == evaluations
    assert np.isfinite(found.values).all()
    assert found.values.shape == found.half_width.shape == (7, 1)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_workers_do_not_matter(estimator):
    played = random_game(7)
    alone = run(played, estimator, seed=3, budget=Budget(333))
    for seed in range(3):
        assert same(alone, run(Shuffled(played, seed), estimator, seed=3, budget=Budget(333)))


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
@pytest.mark.parametrize("left", [0, 1, 5, 13])
def test_a_resumed_run_is_the_uninterrupted_one(estimator, left, tmp_path):
    played = random_game(7)
    at, other = tmp_path / "run.safetensors", tmp_path / "other.safetensors"
    options = {"seed": 3, "budget": Budget(120), "every": 0.0}
    whole = run(played, estimator, resume=other, **options)
    with pytest.raises(Stopping):
        run(Interrupted(played, left), estimator, resume=at, **options)
    assert same(whole, run(played, estimator, resume=at, **options))
    assert at.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_a_larger_budget_goes_on_from_a_smaller(estimator, tmp_path):
    played = random_game(7)
    at = tmp_path / "run.safetensors"
    run(played, estimator, seed=3, budget=Budget(100), resume=at)
    found = run(played, estimator, seed=3, budget=Budget(250), resume=at)
    assert same(found, run(played, estimator, seed=3, budget=Budget(250)))


def test_finished_rounds_of_a_wave_are_not_run_again(tmp_path):
    played, at = planted(9, 2), tmp_path / "run.safetensors"
    options = {"seed": 0, "budget": Budget(2 + 8 * 8), "resume": at, "every": 0.0}
    with pytest.raises(Stopping):
        run(Interrupted(played, 1 + 5), Permutation(), **options)
    before = played.asked
    run(played, Permutation(), **options)
    assert played.asked - before == 3 * 8


SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_shapley_running import KILLED, Sleepy, run
run(Sleepy(KILLED["pool"], 0.05), resume=Path(sys.argv[1]), **{{
    name: value for name, value in KILLED.items() if name != "pool"}})
"""
KILLED = {
    "pool": planted(9, 3, noise=0.05),
    "estimator": Tmab(k=3, tolerance=1e-3),
    "seed": 1,
    "budget": Budget(200),
    "every": 0.0,
}


def test_kill_9(tmp_path):
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    at, whole = tmp_path / "killed.safetensors", tmp_path / "whole.safetensors"
    process = subprocess.Popen([sys.executable, "-c", script, str(at)])
    deadline = time.monotonic() + 120
    while not at.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert same(run(resume=at, **KILLED), run(resume=whole, **KILLED))
    assert at.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "with seed 3, this one has 4"),
        ({"estimator": Permutation(delta=0.1)}, "with delta 0.05, this one has 0.1"),
        ({"estimator": Cmcs()}, "with "),
        ({"pool": random_game(6)}, "with players 7, this one has 6"),
        ({"pool": random_game(7, games=2)}, "with games"),
        ({"identity": {"model": "b", "data": "d"}}, "with model a, this one has b"),
        ({"identity": {"model": "a"}}, "with data d, this one has None"),
        ({"identity": {"model": "f" * 64, "data": "d"}}, "with other model than this one: resume"),
        ({"seed": 4, "identity": {"model": "f" * 64, "data": "d"}}, "with seed 3, this one has 4"),
    ],
    ids=["seed", "options", "estimator", "players", "games", "model", "data", "digest", "both"],
)
def test_another_runs_file_is_refused_and_kept(change, message, tmp_path):
    at = tmp_path / "run.safetensors"
    given = {
        "pool": random_game(7),
        "estimator": Permutation(),
        "seed": 3,
        "budget": Budget(100),
        "resume": at,
        "identity": {"model": "a", "data": "d"},
    }
    run(**given)
    before = at.read_bytes()
    with pytest.raises(ModelEditError, match=message) as caught:
        run(**(given | change))
    assert "\n" not in str(caught.value)
    assert at.read_bytes() == before


def test_a_prior_that_other_threads_computed_is_the_same(tmp_path):
    at = tmp_path / "run.safetensors"
    prior = np.random.default_rng(0).normal(size=(7, 1, 2))

    def go_on(guessed, budget):
        estimator = LeverageCentred(prior=guessed, wave=1)
        return run(random_game(7), estimator, seed=3, budget=Budget(budget), resume=at)

    whole = run(random_game(7), LeverageCentred(prior=prior, wave=1), seed=3, budget=Budget(60))
    go_on(prior, 30)
    with pytest.raises(ModelEditError, match="with other prior than this one"):
        go_on(prior[::-1], 60)
    with pytest.raises(ModelEditError, match="with other prior than this one"):
        go_on(prior * 1.01, 60)
    rest = go_on(prior * (1 + 1e-6), 60)
    assert rest.evaluations == whole.evaluations
    np.testing.assert_allclose(rest.values, whole.values, rtol=1e-4)


def test_a_run_that_begins_anew_replaces_the_file_after_its_first_wave(tmp_path):
    at = tmp_path / "run.safetensors"
    given = {"estimator": Permutation(), "budget": Budget(100), "resume": at}
    run(random_game(7), seed=3, **given)
    before = at.read_bytes()

    class Broken(type(random_game(7))):
        def value(self, alive, *, keep=True):  # noqa: ARG002
            raise ModelEditError("out of order")

    with pytest.raises(ModelEditError, match="out of order"):
        run(Broken(random_game(7).table), seed=4, anew=True, **given)
    assert at.read_bytes() == before
    run(random_game(7), seed=4, anew=True, **given)
    assert at.read_bytes() != before


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04 zip"])
def test_a_file_that_is_none_is_refused_and_kept(content, tmp_path):
    at = tmp_path / "run.safetensors"
    at.write_bytes(content)
    with pytest.raises(ModelEditError, match=r"cut short in its header|is a pickle"):
        run(random_game(), Permutation(), seed=0, budget=Budget(100), resume=at)
    assert at.read_bytes() == content


def test_a_checkpoint_of_weights_is_refused(tmp_path):
    import torch
    from safetensors.torch import save_file

    at = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(2)}, at)
    with pytest.raises(ModelEditError, match="is not the state of a run"):
        run(random_game(), Permutation(), seed=0, budget=Budget(100), resume=at)


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"evaluations": 0}, "0 evaluations scores nothing: give at least 2"),
        ({"evaluations": 1}, "1 evaluations"),
        ({"seconds": 0.0}, "0.0 seconds"),
        ({"seconds": float("nan")}, "nan seconds"),
    ],
)
def test_budgets_that_are_none(budget, message):
    with pytest.raises(ModelEditError, match=message):
        Budget(**budget)


def test_no_end_in_sight():
    with pytest.raises(ModelEditError, match="Permutation has no stopping rule"):
        run(random_game(), Permutation(), seed=0)


def test_no_players():
    with pytest.raises(ModelEditError, match="no unit can be scored"):
        run(random_game(0), Permutation(), seed=0, budget=Budget(10))


@dataclass
class Sleepy:
    game: object
    pause: float = 0.01

    @property
    def players(self):
        return self.game.players

    @property
    def names(self):
        return self.game.names

    def value(self, alive, *, keep=True):
        time.sleep(self.pause)
        return self.game.value(alive, keep=keep)


@pytest.mark.parametrize("estimator", [Permutation(), Cmcs()], ids=str)
def test_seconds_end_a_run_within_a_round(estimator):
    started = time.monotonic()
    found = run(Sleepy(planted(500, 5)), estimator, seed=0, budget=Budget(seconds=0.3))
    assert time.monotonic() - started < 3
    assert 2 < found.evaluations < 40
    assert np.isfinite(found.values).all()


def test_no_time_still_gives_values():
    found = run(planted(5, 1), Permutation(), seed=0, budget=Budget(seconds=1e-9))
    assert found.evaluations == 2
    assert np.unique(found.values).size == 1


def test_watch_sees_every_wave(monkeypatch):
    monkeypatch.setattr(running, "REST", 0)
    seen = []
    run(random_game(), Tmab(k=1), seed=0, budget=Budget(300), watch=seen.append)
    used = [estimate.evaluations for estimate in seen]
    assert used == sorted(used)
    assert used[:3] == [2, 42, 82]


def test_a_dear_estimate_is_watched_seldom(monkeypatch):
    monkeypatch.setattr(running, "REST", 1e9)
    seen = []
    run(random_game(), Tmab(k=1), seed=0, budget=Budget(300), watch=seen.append)
    assert len(seen) == 1


def test_truncated_walks_leave_their_budget_to_others():
    played = random_game(7)
    played.table[:-1] = 0.0  # chance as soon as anyone has left
    estimator = Permutation(truncation=0.0, patience=1)
    found = run(played, estimator, seed=0, budget=Budget(20))
    assert found.evaluations == 20
    assert found.half_width.max() < 1  # 18 walks of one evaluation each
