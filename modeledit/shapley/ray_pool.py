"""A pool on a Ray cluster: one actor per worker, wherever the cluster has room."""

from __future__ import annotations

import os
import pickle
import socket
import warnings
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import modeledit
from modeledit.errors import ModelEditError
from modeledit.shapley import Answer, Game, Task, evaluate
from modeledit.shapley.crew import Crew, Failed, Lost, Message, Opened, Spec, Worker, attempt

SECONDS = 10.0  # to find out whether anybody is at an address
# Ray speaks gRPC, that is HTTP/2 (RFC 9113): the client's preface with an empty frame of settings,
# which the server answers with its own. A frame begins with 3 bytes of length and 1 of type.
HEADER, SETTINGS = 9, b"\x04"
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + SETTINGS + b"\0\0\0\0\0"


@dataclass(eq=False)
class Hand(Worker):
    """An actor, and the answer it owes, if it owes one."""

    actor: Any
    owes: Any


class RayPool(Crew[Hand]):
    """Workers on a Ray cluster, of one CPU and `gpus` GPUs each.

    address: HOST:PORT of the cluster's head, "auto" for the one this machine belongs to, "local"
        for one of this machine's own. A connection that Ray has already is used as it is, and kept.
    workers: the most at a time; 0 for as many as the cluster has room for at the start.
    Every node must have modeledit installed, in the versions of this machine, and the code of a
    model of one's own. Rounds of a lost node go to others; if there is none left, the pool waits
    for one to join.
    """

    advice = "look at the cluster with `ray status`, and at its logs"

    def __init__(self, spec: Spec, address: str, workers: int = 0, *, gpus: float = 0.0) -> None:
        self._ray = _import_ray()
        self._connected = not self._ray.is_initialized()
        if self._connected:
            _connect(self._ray, address)
        try:
            room = _room(self._ray, gpus)
            self._spec = self._ray.put(self._ray.cloudpickle.dumps(spec))
            # No restarts: the crew replaces an actor that is lost, on whichever node has room.
            remote = self._ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=0)
            self._actors = remote(Evaluator)
            super().__init__(min(workers, room) if workers else room)
        except BaseException:
            self._disconnect()
            raise

    def close(self) -> None:
        """End the workers, and the connection if the pool made it."""
        super().close()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connected:
            self._connected = False
            self._ray.shutdown()

    def _hire(self) -> None:
        actor = self._actors.remote()
        self._staff.append(Hand(actor, actor.open.remote(self._spec, modeledit.versions())))

    def _give(self, worker: Hand, task: Task) -> None:
        worker.owes = worker.actor.work.remote(task)

    def _wait(self) -> list[tuple[Hand, Message]]:
        owing = {worker.owes: worker for worker in self._staff if worker.owes is not None}
        one, rest = self._ray.wait(list(owing), num_returns=1)
        more = self._ray.wait(rest, num_returns=len(rest), timeout=0)[0] if rest else []
        return [(owing[ref], self._message(owing[ref])) for ref in (*one, *more)]

    def _message(self, worker: Hand) -> Message:
        owed, worker.owes = worker.owes, None
        try:
            message: Message = self._ray.get(owed)
        except self._ray.exceptions.RayError as error:
            return Lost(f"as Ray says: {' '.join(str(error).split())[:300]}")
        return message

    def _end(self, worker: Hand) -> None:
        self._ray.kill(worker.actor)


class Evaluator:
    """What an actor is: holds the game and plays it."""

    def __init__(self) -> None:
        self._game: Game | None = None

    def open(self, spec: bytes, versions: dict[str, str]) -> Opened | Failed:
        """Open the game, if this node's libraries give the same numbers."""
        return attempt(lambda: self._open(spec, versions))

    def work(self, task: Task) -> Answer | Failed:
        """Evaluate one task."""
        game = self._game
        if game is None:
            raise RuntimeError("work was given to an actor that has not opened the game")
        return attempt(lambda: evaluate(game, task))

    def _open(self, spec: bytes, versions: dict[str, str]) -> Opened:
        own = modeledit.versions()
        for name, version in versions.items():
            if own[name] != version:
                raise ModelEditError(
                    f"a node of the cluster has {name} {own[name]} and this machine {version}: "
                    "install the same on all, as results depend on it"
                )
        self._game = pickle.loads(spec).open()
        return Opened(self._game.players, tuple(self._game.names))


def _import_ray() -> Any:
    try:
        return import_module("ray")
    except ImportError as error:
        raise ModelEditError(
            f"Ray cannot be imported ({error}): install it with pip install 'modeledit[ray]'"
        ) from error


def _connect(ray: Any, address: str) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of one's own reports nothing
    try:
        _reach(address)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Ray's, about its own next version
            ray.init(address=address, log_to_driver=False, logging_level="error")
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelEditError(
            f"no Ray cluster answers at {address!r} ({' '.join(str(error).split())[:200]}): "
            "give HOST:PORT of its head, or auto on a machine of the cluster"
        ) from error


def _reach(address: str) -> None:
    """Raises OSError at once where Ray would go on trying for minutes, and warn all the while."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    with socket.create_connection((host, int(port)), timeout=SECONDS) as link:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return  # the greeting would have to be encrypted
        link.sendall(GREETING)
        with link.makefile("rb") as answer:
            if answer.read(HEADER)[3:4] != SETTINGS:
                raise OSError("what listens there is no Ray")


def _room(ray: Any, gpus: float) -> int:
    """How many workers fit into the cluster as it is."""
    has = ray.cluster_resources()
    room = int(has.get("CPU", 0))
    if gpus:
        room = min(room, int(has.get("GPU", 0) / gpus))
    if room < 1:
        raise ModelEditError(
            f"the Ray cluster has {has.get('CPU', 0):g} CPUs and {has.get('GPU', 0):g} GPUs, a "
            f"worker needs 1 and {gpus:g}: add a node"
        )
    return room
