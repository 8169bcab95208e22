"""Several Ray nodes on this machine, in a process of their own: its argument is the head, its stdin says what happens.

Token authentication is on. Prints one line of JSON for each line that it reads, and ends with its stdin. With RAY_REDIS_ADDRESS
Ray's control store (GCS) keeps its state there, and a head that is killed may be begun again.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

FOLDER_PREFIX = "oc"
MAX_STARTS = 4


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def main() -> None:
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_SCHEDULER_EVENTS="0", RAY_worker_niceness="0")
    os.environ.update(RAY_health_check_period_ms="2000", RAY_health_check_failure_threshold="4")  # a lost node is told in 8 s
    from ray.cluster_utils import Cluster

    (Path(tempfile.gettempdir()) / "ray").mkdir(exist_ok=True)  # where Ray leaves the address of the last cluster
    folder = tempfile.mkdtemp(prefix=FOLDER_PREFIX)
    port = free_port()
    ports = {"dashboard_port": port, "dashboard_agent_listen_port": free_port()}  # others' clusters may be here, too
    head = {"num_cpus": 1, "include_dashboard": True, **ports, **json.loads(sys.argv[1])}
    cluster = Cluster()
    nodes: dict[str, Any] = {}
    numbers = itertools.count()

    def begin(name: str, options: dict[str, Any]) -> Any:
        for _ in range(MAX_STARTS):  # Ray gives a node 30 s, which a busy machine may not have
            try:
                # a folder for each: nodes that share one unpack the same job's code over one another; short, for sockets
                return cluster.add_node(**options, temp_dir=f"{folder}/{next(numbers)}")
            except Exception as error:
                print(f"{name}: {error}", file=sys.stderr)
                kill_below(psutil.Process())  # what of it has come up
                if "include_dashboard" not in options:
                    raise
        raise SystemExit(f"{name} did not start")

    def obey(action: str, name: str, options: dict[str, Any]) -> dict[str, Any]:
        nonlocal cluster
        match action:
            case "add":
                nodes[name] = begin(name, options)
            case "kill":  # as a machine that loses its power: all at once
                kill(nodes.pop(name))
                return {}
            case "restart":  # all machines have lost their power, and the head is back
                kill_below(psutil.Process())
                nodes.clear()
                cluster = Cluster()
                nodes[name] = begin(name, {**head, **options})
            case "kill_control_store":
                nodes["head"].kill_gcs_server()
                return {}
            case "start_control_store":
                nodes["head"].start_gcs_server()
                return {}
            case "restart_head":  # the machine of the head alone has lost its power, and is back under its address
                head["gcs_server_port"] = int(cluster.address.rpartition(":")[2])
                kill(nodes.pop("head"))
                cluster.head_node = None
                nodes[name] = begin(name, {**head, **options})
        return {"raylet": raylet_of(nodes[name]).pid}

    try:
        nodes["head"] = begin("head", head)
        tell({"address": cluster.address, "url": f"http://127.0.0.1:{port}", "raylet": raylet_of(nodes["head"]).pid})
        for line in sys.stdin:
            tell(obey(**json.loads(line)))
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def raylet_of(node: Any) -> psutil.Process:
    return psutil.Process(node.all_processes["raylet"][0].process.pid)


def kill(node: Any) -> None:
    """All of a machine's processes, those that Ray has begun for jobs and stages among them."""
    kill_below(raylet_of(node))
    for processes in node.all_processes.values():
        for each in processes:
            each.process.kill()


def kill_below(process: psutil.Process) -> None:
    """Kill what a process has begun, and what that has begun."""
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()


def tell(content: dict[str, Any]) -> None:
    print(json.dumps(content), flush=True)


if __name__ == "__main__":
    main()
