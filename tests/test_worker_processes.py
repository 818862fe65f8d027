"""Pools of processes: like answers, errors that travel, and none that outlives the program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from worker_cases import PLAYERS, ToySpec, assert_same, pids, wave

from modeledit.errors import DataError
from modeledit.shapley import Task
from modeledit.shapley.crew import TRIES
from modeledit.shapley.workers import ProcessPool


def gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody has asked for its exit code has."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return state.stdout.strip()[:1] in ("", "Z")


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def test_processes_answer_alike_and_one_may_be_killed() -> None:
    with ProcessPool(ToySpec(seconds=0.1), 3) as pool:
        assert (pool.players, pool.names) == (PLAYERS, ("sum", "root"))
        everybody, found, tasks = pids(pool), [], wave(12)
        for answer in pool.map(tasks):
            found.append(answer)
            busy = [w for w in pool._staff if w.task is not None]
            if len(found) == 3:
                os.kill(busy[0].process.pid or 0, signal.SIGKILL)
        assert_same(found, tasks)
        assert len(pids(pool)) == 3
        everybody += pids(pool)
        assert len(set(everybody)) == 4
        assert_same(list(pool.map(wave(2))), wave(2))
    assert all(map(gone, everybody))
    assert pids(pool) == []


def test_the_error_of_a_process_is_the_callers() -> None:
    spec = ToySpec(fails=True)
    with ProcessPool(spec, 1) as pool:
        assert pool.threads == torch.get_num_threads()
        assert not spec.weights.is_shared()  # as torch's own way of sending would make it
        calm = [Task(0, np.ones((2, PLAYERS), dtype=bool))]
        assert_same(list(pool.map(calm)), calm)
        with pytest.raises(DataError) as caught:
            list(pool.map(wave(1)))
    assert str(caught.value) == "three are too many"
    assert "in value" in caught.value.__notes__[0]


def test_a_game_that_cannot_be_opened_is_told() -> None:
    with pytest.raises(DataError) as caught:
        ProcessPool(ToySpec(closed=True), 1)
    assert str(caught.value) == "the images are not there"


SCRIPT = """
import signal, sys
# A job in the background of a shell inherits that it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {tests!r})
from worker_cases import ToySpec, pids, wave
from modeledit.shapley.workers import ProcessPool

{guard}
    with ProcessPool(ToySpec(seconds=60), 1) as pool:
        print(*pids(pool), flush=True)
        list(pool.map(wave()))
"""


def program(folder: Path, guard: str = 'if __name__ == "__main__":') -> subprocess.Popen[str]:
    """A script whose worker has long rounds to do."""
    file = folder / "program.py"
    file.write_text(SCRIPT.format(tests=str(Path(__file__).parent), guard=guard))
    pipe = subprocess.PIPE
    command = [sys.executable, str(file)]
    return subprocess.Popen(command, text=True, start_new_session=True, stdout=pipe, stderr=pipe)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_program(how: signal.Signals, tmp_path: Path) -> None:
    with program(tmp_path) as running:
        assert running.stdout is not None
        worker = int(running.stdout.readline())
        assert not gone(worker)
        if how == signal.SIGINT:
            os.killpg(running.pid, how)  # as Ctrl-C does: the worker gets it, too
        else:
            running.kill()
        _, err = running.communicate(timeout=60)
    wait_for(lambda: gone(worker))
    assert err.count("Traceback") == (how == signal.SIGINT)  # the program's own only
    assert ("KeyboardInterrupt" in err) == (how == signal.SIGINT)


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_told_so(tmp_path: Path) -> None:
    with program(tmp_path, "for _ in range(1):") as running:
        _, err = running.communicate(timeout=300)
    last = err.splitlines()[-1]
    assert f"{TRIES} workers in a row were lost before they were ready" in last
    assert 'if __name__ == "__main__"' in last
