"""Runs on a cluster as one would have it: a bucket as the store, a cache on each machine, the head's state in Redis."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_shell import Cluster

sys.path.append(str(Path(__file__).parents[1] / "store"))  # its servers; last, or its conftest would hide that of others
sys.path.append(str(Path(__file__).parents[1] / "faults"))

from s3_proxy import Proxy, Request, proxied
from servers import BUCKET, environment, free_port, started

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]

SIZE = 300_000
FETCHED = f"""
version: 1
name: fetched
nodes:
  made: {{stage: probe.bytes, params: {{size: {SIZE}}}, resources: {{custom: {{one: 1}}}}}}
  x: {{stage: probe.bytes, inputs: {{input: made}}, seed: 1, resources: {{custom: {{two: 1}}}}}}
  y: {{stage: probe.bytes, inputs: {{input: made}}, seed: 2, resources: {{custom: {{two: 1}}}}}}
  z: {{stage: probe.bytes, inputs: {{input: made}}, seed: 3, resources: {{custom: {{one: 1}}}}}}
  end: {{stage: probe.echo, inputs: {{inputs: [x, y, z]}}, resources: {{custom: {{two: 1}}}}}}
"""
LONG = """
version: 1
name: long
nodes:
  a: {stage: probe.sleep, params: {seconds: SECONDS}, resources: {custom: {two: 1}}, retry: {backoff: 100ms}}
  b: {stage: probe.echo, inputs: {inputs: a}, resources: {custom: {one: 1}}}
"""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Redis that keeps nothing on disk."""
    program = shutil.which("redis-server")
    if program is None:
        why = "redis-server is not installed (apt-get install redis-server)"
        if os.environ.get("ORCHESTRATOR_TESTS_MUST_NOT_SKIP"):
            pytest.fail(why)
        pytest.skip(why)
    port, folder = free_port(), tmp_path_factory.mktemp("redis")
    server = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)],
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    yield f"127.0.0.1:{port}"
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """Before moto: it sees each request that a machine makes."""
    with proxied(started("moto").endpoint) as found:
        yield found


@pytest.fixture(scope="module")
def cluster(redis: str, proxy: Proxy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    variables = {**started("moto").variables, "AWS_ENDPOINT_URL": proxy.endpoint, "RAY_REDIS_ADDRESS": redis}
    with environment({**variables, "ORCHESTRATOR_CACHE": str(folder / "here")}):
        made = Cluster(
            folder, store=f"s3://{BUCKET}/cluster", variables={**variables, "ORCHESTRATOR_CACHE": str(folder / "head")}
        )
        for name, number in (("one", 2), ("two", 2)):
            variables_of_node = {"ORCHESTRATOR_CACHE": str(folder / name)}
            made.add(name, num_cpus=number, resources={name: number}, env_vars=variables_of_node)
        yield made
        made.close()


def test_each_machine_fetches_a_file_once_and_its_maker_never(cluster: Cluster, proxy: Proxy) -> None:
    """Two stages that begin at the same moment on one machine share its cache; a model of gigabytes must not come twice."""
    fetched: Counter[str] = Counter()

    def count(request: Request) -> None:
        if request.method == "GET" and "/blobs/" in request.target:
            fetched[request.target.rpartition("/")[2]] += 1

    proxy.rule = count
    code, said = cluster.submit(FETCHED, "--address", cluster.url)
    proxy.rule = None
    assert code == 0, said
    made = cluster.workspace.artifacts.find("probe.bytes", cluster.status("@last").nodes["made"].key)
    assert made is not None
    (file,) = made.files.values()
    assert fetched[file.digest] == 1, fetched
    assert max(fetched.values()) == 1, "what z made on the other machine came once, too"
    for name in ("one", "two"):
        assert (cluster.folder / name / "blobs" / file.digest[:2] / file.digest).stat().st_size == SIZE


def test_a_run_outlives_the_control_store_of_its_cluster(cluster: Cluster) -> None:
    """With Redis behind it, Ray's control store may be killed and begun again: nothing is lost, and no attempt is repeated."""
    run = cluster.detached(LONG.replace("SECONDS", "5"))
    cluster.wait_until(lambda: cluster.status(run).nodes["a"].state == "running")
    cluster.tell("kill_control_store")
    cluster.tell("start_control_store")
    code, said = cluster.call("wait", run)
    assert code == 0, said
    assert [node.attempt for node in cluster.status(run).nodes.values()] == [1, 1]


def test_after_the_death_of_its_heads_machine_a_run_goes_on_on_the_workers_that_stayed(cluster: Cluster) -> None:
    """A run's driver is on the head, and is lost with it; the head that comes back has its workers, and the store the work."""
    text = LONG.replace("SECONDS", "9")
    run = cluster.detached(text)
    cluster.wait_until(lambda: any(line["step"] > 20 for line in _progress(cluster, run)))
    cluster.restart_head()
    cluster.wait_until(lambda: cluster.status(run).state == "interrupted")
    code, said = cluster.submit(text, "--address", cluster.url)
    assert code == 0, said
    assert cluster.status("@last").id != run
    assert cluster.status("@last").nodes["a"].metrics["num_steps_resumed"] > 0


def _progress(cluster: Cluster, run: str) -> list[dict[str, Any]]:
    return cluster.workspace.ledger.progress(run, cluster.status(run).nodes["a"].folder)[0]
