"""The main job as a Ray job on a cluster of several nodes with a token, through everything that may happen to it.

    python benchmarks/cluster_main_job.py [--at-once 1] [--set NAME=VALUE ...] [--folder DIR]

One node makes it first. Then, on a head without stages and two workers on this machine: submitted by a shell that ends, watched
(`status`, `logs -f`) and cancelled by a second one; resumed, and its driver killed with SIGKILL; submitted again, and the
machine killed on which a trial of the search runs. What comes out must be the artifacts of one node, by key and by digest.
The last line says what held. With one trial at once a search is repeatable; with more, trials may be others, and only the
artifacts that both made are compared.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT), str(ROOT / "tests" / "engine")]

from cluster_shell import Cluster  # noqa: E402

from orchestrator import api  # noqa: E402

DEADLINE_S = 3600.0
TRAINED = ("pretrain", "search.sparsify", "search.quantize", "search.tokens", "finetune", "control")
OFTEN = [word for name in TRAINED for word in ("--set", f"{name}.checkpoint_every_minutes=0.05")]
"""On the cluster states are saved every few seconds, so that there is always one to go on from; it is no part of a key."""


class Job:
    """The workflow, and how it is asked for: the same words everywhere."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.words = [str(Path(asked.workflow).resolve()), "--set", f"search.max_concurrent={asked.at_once}"]
        self.words += [word for override in asked.set for word in ("--set", override)]
        self.began_s = time.monotonic()

    def say(self, text: str) -> None:
        """One line of the story, with the seconds since its beginning."""
        print(f"{time.monotonic() - self.began_s:7.1f} s  {text}", flush=True)


def main() -> int:
    """Tell the story; 1 where something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workflow", default=str(ROOT / "workflows" / "vit_compress.yaml"))
    parser.add_argument("--set", action="append", default=[], help="as of submit; to try this program out with less to do")
    parser.add_argument("--at-once", type=int, default=1, help="trials at once (1: the search is repeatable)")
    parser.add_argument("--folder", type=Path, help="for the two stores; default: a temporary one")
    asked = parser.parse_args()
    job = Job(asked)
    with tempfile.TemporaryDirectory(prefix="orchestrator-cluster-", ignore_cleanup_errors=True) as temporary:
        folder = asked.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        alone = on_one_node(job, folder / "alone")
        together = on_a_cluster(job, folder)
    different = sorted(key for key in alone.keys() & together.keys() if alone[key] != together[key])
    only_here, only_there = len(alone.keys() - together.keys()), len(together.keys() - alone.keys())
    is_right = not different and (asked.at_once > 1 or not (only_here or only_there))
    print(
        f"{'HELD' if is_right else 'DID NOT HOLD'}: cancelled from a second shell, resumed, driver killed, a node lost; "
        f"{len(alone.keys() & together.keys())} artifacts made in both places, {len(different)} with another digest "
        f"({', '.join(different) or 'none'}); made on one node only {only_here}, on the cluster only {only_there}"
    )
    return 0 if is_right else 1


def on_one_node(job: Job, store: Path) -> dict[str, str]:
    """Content digests by key, made by `submit` on this machine."""
    environment = {**os.environ, "ORCHESTRATOR_STORE": str(store), "OMP_NUM_THREADS": "1"}
    began_s = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "orchestrator", "submit", *job.words],
        cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True,
    )  # fmt: skip
    made = by_key(api.open_workspace(str(store)))
    job.say(f"one node: {len(made)} artifacts in {time.monotonic() - began_s:.0f} s")
    return made


def on_a_cluster(job: Job, folder: Path) -> dict[str, str]:
    """The same on a cluster; content digests by key."""
    cluster = Cluster(folder, head={"num_cpus": 0}, deadline_s=DEADLINE_S)
    try:
        for name in ("first", "second"):
            cluster.add(name, num_cpus=1)
        job.say(f"a head and two workers at {cluster.url}")
        run = watched_and_cancelled(job, cluster)
        run = driver_killed(job, cluster, run)
        node_lost(job, cluster, run)
        code, said = cluster.call("submit", *job.words, "--address", cluster.url)
        assert (code, "nothing to do" in said) == (0, True), said
        job.say(f"submitted once more: nothing to do; {len(cluster.jobs())} jobs in all")
        return by_key(cluster.workspace)
    finally:
        cluster.close()


def watched_and_cancelled(job: Job, cluster: Cluster) -> str:
    """Submitted by a shell that ends at once; a second one reads the log as it grows, and cancels."""
    run = submitted(cluster, "submit", *job.words, *OFTEN, "--address", cluster.url)
    cluster.wait_until(lambda: where(cluster, run, "pretrain"))
    job.say(f"run {run} makes pretrain on {where(cluster, run, 'pretrain')}; the shell that submitted it has ended")
    watching = cluster.begin("logs", run, "-f")
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(watching.stdout or ()), daemon=True)
    reader.start()
    cluster.wait_until(lambda: cluster.has_saved(run, "pretrain"))
    code, said = cluster.call("status", run)
    assert (code, "running" in said) == (0, True), said
    began_s = time.monotonic()
    code, said = cluster.call("cancel", run)
    assert (code, cluster.status(run).state) == (0, "cancelled"), said
    assert cluster.call("wait", run)[0] == 130
    seconds = time.monotonic() - began_s
    watching.wait(60)
    reader.join(60)
    job.say(f"cancelled from the second shell in {seconds:.1f} s; `logs -f` showed {len(lines)} lines and ended by itself")
    return run


def driver_killed(job: Job, cluster: Cluster, run: str) -> str:
    """Resumed; in the search its driver is killed."""
    run = submitted(cluster, "resume", run)
    label = in_the_search(cluster, run)
    driver = cluster.holder(f"run-{run}")
    machine = where(cluster, run, label)
    job.say(f"resumed as {run}: {counts(cluster, run)}; makes {label} on {machine}; kill -9 of its driver {driver}")
    began_s = time.monotonic()
    os.kill(driver, signal.SIGKILL)
    cluster.wait_until(lambda: cluster.status(run).state == "interrupted")
    job.say(f"the run is told to be interrupted after {time.monotonic() - began_s:.1f} s")
    return run


def node_lost(job: Job, cluster: Cluster, before: str) -> None:
    """Submitted again; a machine that makes a trial is killed; the run must come to its end."""
    run = submitted(cluster, "submit", *job.words, *OFTEN, "--address", cluster.url)
    assert run != before
    label = in_the_search(cluster, run)
    machine = where(cluster, run, label)
    job.say(f"submitted again as {run}: {counts(cluster, run)}; makes {label} on {machine}, which is killed")
    cluster.kill(machine)
    code, said = cluster.call("wait", run)
    assert code == 0, said
    events, _ = cluster.workspace.ledger.events(run)
    lost = [f"{event['node']} ({event['ending']})" for event in events if event["type"] == "attempt_failed"]
    machines = [event["machines"] for event in events if event["type"] == "machines_changed"]
    job.say(f"done: {counts(cluster, run)}; attempts lost: {', '.join(lost) or 'none'}; machines then {machines}")
    assert machines, "the loss was not noticed"


def submitted(cluster: Cluster, *words: str) -> str:
    """The id of a run that was asked for and left alone."""
    code, said = cluster.call(*words, "--detach", "--json")
    assert code == 0, said
    return str(json.loads(said.splitlines()[-1])["run"])


def in_the_search(cluster: Cluster, run: str) -> str:
    """The label of a trial's node that runs on a worker and has saved a state, waited for."""
    found: list[str] = []

    def is_there() -> bool:
        found[:] = [
            label for label in running(cluster, run)
            if label.startswith("search/") and where(cluster, run, label) and cluster.has_saved(run, label)
        ]  # fmt: skip
        return bool(found)

    cluster.wait_until(is_there)
    return found[0]


def running(cluster: Cluster, run: str) -> list[str]:
    """Labels of the nodes that run now."""
    return [label for label, node in cluster.status(run).nodes.items() if node.state == "running"]


def where(cluster: Cluster, run: str, label: str) -> str:
    """The machine whose process makes a node; "" where none does just now."""
    return cluster.machine_of(cluster.holder(cluster.status(run).nodes[label].key))


def counts(cluster: Cluster, run: str) -> str:
    """How many nodes are in which state."""
    states: dict[str, Any] = {}
    for node in cluster.status(run).nodes.values():
        states[node.state] = states.get(node.state, 0) + 1
    return ", ".join(f"{number} {state}" for state, number in sorted(states.items()))


def by_key(workspace: api.Workspace) -> dict[str, str]:
    """The content digest of every artifact, by stage and key; a search's own tells seconds, so it has another one each time."""
    return {
        f"{record.stage} {record.key[:8]}": record.content_digest
        for record in workspace.artifacts.all_records() if record.stage != "sweep"
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
