"""Thousands of nodes that do nothing, over several Ray nodes on this machine, beside raw Ray on the very same ones.

    python benchmarks/cluster_throughput.py [--nodes 5000] [--machines 4]

Nodes per second, and CPU milliseconds of the driver per node: user and system time of its process, less that of one with `FEW`
nodes, so that imports and attaching are in neither. Raw Ray only calls. A node of ours is planned, leased, logged, written,
recorded and told to the ledger, and never runs twice; one process without Ray says what that costs by itself.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT), str(ROOT / "tests" / "engine")]

from cluster_shell import TOKEN, Cluster  # noqa: E402

FEW = 50
MESSAGE = "x" * 500
"""As long as the order to run a node."""


@dataclass(frozen=True)
class Cost:
    """Of a whole process: by the clock, and its own CPU."""

    seconds: float
    cpu_s: float


def main() -> int:
    """Measure raw Ray and ours, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--machines", type=int, default=4, help="of one core each, as Ray counts")
    parser.add_argument("--only", help="of the names that are printed, those that begin so")
    parser.add_argument("--raw", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.raw:
        way, address, count, num_actors = asked.raw
        WAYS[way](address, int(count), int(num_actors))
        return 0
    with tempfile.TemporaryDirectory(prefix="orchestrator-throughput-", ignore_cleanup_errors=True) as temporary:
        cluster = Cluster(Path(temporary), deadline_s=3600)
        try:
            for number in range(1, asked.machines):
                cluster.add(f"n{number}", num_cpus=1)
            for name in (*WAYS, "orchestrator on Ray", "orchestrator inline"):
                if name.startswith(asked.only or ""):
                    few, many = (one(name, cluster, count, asked.machines) for count in (FEW, asked.nodes))
                    more = asked.nodes - FEW
                    rate, cpu_ms = more / (many.seconds - few.seconds), 1e3 * (many.cpu_s - few.cpu_s) / more
                    print(f"{name:<40} {rate:8.0f} nodes/s   driver CPU {cpu_ms:7.3f} ms per node", flush=True)
        finally:
            cluster.close()
    return 0


def one(name: str, cluster: Cluster, count: int, machines: int) -> Cost:
    """What `count` nodes cost, made in this way."""
    if name in WAYS:
        command = [sys.executable, __file__, "--raw", name, cluster.address, str(count), str(machines)]
    else:
        file = cluster.folder / f"noop-{count}.yaml"
        head = f"version: 1\nname: noop{count}\nnodes:\n"
        file.write_text(head + f"  n: {{stage: probe.echo, foreach: {{value: {list(range(count))}}}}}\n")
        where = ["--address", cluster.address] if name.endswith("Ray") else ["--executor", "inline"]
        store = str(cluster.folder / f"{name}-{count}".replace(" ", "-"))
        command = [sys.executable, "-m", "orchestrator", "--store", store, "submit", str(file), *where]
    environment = {**cluster.environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    began_s = time.monotonic()
    with (cluster.folder / "log").open("wb") as log:
        driver = subprocess.Popen(command, cwd=cluster.folder, env=environment, stdout=log, stderr=log)
        _, status, used = os.wait4(driver.pid, 0)
    assert status == 0, (cluster.folder / "log").read_text()[-3000:]
    return Cost(time.monotonic() - began_s, used.ru_utime + used.ru_stime)


def attached(address: str) -> Any:
    """Ray, on the cluster."""
    import ray

    ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    return ray


def tasks(address: str, count: int, _num_actors: int) -> None:
    """All tasks at once; Ray queues them."""
    ray = attached(address)
    noop = ray.remote(_noop)
    ray.get([noop.remote(MESSAGE) for _ in range(count)])


def piped(address: str, count: int, num_actors: int) -> None:
    """An actor on each machine, all of its calls at once."""
    ray = attached(address)
    actors = _actors(ray, num_actors)
    ray.get([actors[number % num_actors].run.remote(MESSAGE) for number in range(count)])


def one_by_one(address: str, count: int, num_actors: int) -> None:
    """An actor on each machine; it gets its next call when its last has ended: what whoever retries and shares must do."""
    ray = attached(address)
    free = _actors(ray, num_actors)
    busy: dict[Any, Any] = {}
    begun = 0
    while begun < count or busy:
        while free and begun < count:
            actor = free.pop()
            busy[actor.run.remote(MESSAGE)] = actor
            begun += 1
        ready, _ = ray.wait(list(busy), num_returns=1)
        for reference in ready:
            ray.get(reference)
            free.append(busy.pop(reference))


def _actors(ray: Any, count: int) -> list[Any]:
    actors = [ray.remote(num_cpus=1)(_Noop).remote() for _ in range(count)]
    ray.get([actor.run.remote("") for actor in actors])
    return actors


def _noop(message: str) -> str:
    return message


class _Noop:
    def run(self, message: str) -> str:
        return message


WAYS = {"raw Ray, tasks": tasks, "raw Ray, actors, all calls at once": piped, "raw Ray, actors, call by call": one_by_one}


if __name__ == "__main__":
    raise SystemExit(main())
