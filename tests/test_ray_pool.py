"""A pool on Ray's own test cluster of several nodes on this machine."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from threading import Thread
from typing import Any

import pytest
from worker_cases import PLAYERS, ToySpec, assert_same, wave

from modeledit.errors import DataError, ModelEditError
from modeledit.shapley.ray_pool import _reach
from modeledit.shapley.workers import pool_for


def test_without_ray_it_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not installed
    with (
        pytest.raises(ModelEditError, match=r"pip install 'modeledit\[ray\]'$"),
        pool_for(ToySpec(), ray="auto"),
    ):
        pass


@pytest.mark.parametrize(
    ("answer", "known"),
    [(b"\0\0\0\4\0\0\0\0\0", True), (b"HTTP/1.0 400 Bad Request\r\n\r\n", False), (b"", False)],
)
def test_another_server_is_told_from_ray_before_ray_tries(answer: bytes, known: bool) -> None:
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reply() -> None:
            link, _ = server.accept()
            with link:
                heard.append(link.recv(100))
                link.sendall(answer)

        thread = Thread(target=reply)
        thread.start()
        with nullcontext() if known else pytest.raises(OSError, match="is no Ray"):
            _reach(f"127.0.0.1:{server.getsockname()[1]}")
        thread.join()
    assert heard[0].startswith(b"PRI * HTTP/2.0")


def test_ray_is_imported_when_asked_for_only() -> None:
    code = (
        "import sys, modeledit.shapley.workers, modeledit.shapley.ray_pool; "
        "sys.exit('ray' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head, with one CPU, that is quick to notice a node's death."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[ToySpec.__module__])  # no node has it

    quick = {"health_check_period_ms": 300, "health_check_failure_threshold": 3}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": quick}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()


@pytest.mark.slow
@pytest.mark.ray
def test_a_node_may_die_in_mid_run(cluster: Any) -> None:
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    tasks, found = wave(12), []
    with pool_for(ToySpec(seconds=0.5), ray=cluster.address) as pool:
        assert (pool.players, pool.names, pool.workers) == (PLAYERS, ("sum", "root"), 2)
        for answer in pool.map(tasks):
            found.append(answer)
            if len(found) == 4:
                assert all(worker.ready for worker in pool._staff)
                cluster.remove_node(node, allow_graceful=False)
        assert_same(found, tasks)
        assert [w.ready for w in pool._staff].count(False) == 1  # waits for a node to join
        assert_same(list(pool.map(wave(2))), wave(2))


@pytest.mark.slow
@pytest.mark.ray
def test_errors_and_addresses(cluster: Any) -> None:
    for spec, text in ((ToySpec(fails=True), "three are too"), (ToySpec(closed=True), "not there")):
        with pytest.raises(DataError, match=text), pool_for(spec, 1, cluster.address) as pool:
            list(pool.map(wave(1)))
    with (
        pytest.raises(ModelEditError, match=r"GPUs, a worker needs 1 and 2: add a node$"),
        pool_for(ToySpec(), 1, cluster.address, gpus=2),
    ):
        pass
    with (
        pytest.raises(ModelEditError, match=r"^no Ray cluster answers at '127.0.0.1:1' "),
        pool_for(ToySpec(), 1, "127.0.0.1:1"),
    ):
        pass
