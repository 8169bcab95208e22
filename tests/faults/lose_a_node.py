"""Runs a workflow on a Ray cluster of three nodes, kills the one on which a stage runs, and looks at the end of it: FOLDER."""

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

os.environ |= {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_raylet_start_wait_time_s": "180",
}
sys.path.append(str(Path(__file__).parents[2]))

import ray
from ray.cluster_utils import Cluster

from orchestrator import api
from orchestrator.engine import cluster as own_cluster
from orchestrator.engine.executors.ray import RayExecutor

WORKFLOW = """
version: 1
name: far
nodes:
  a: {stage: probe.echo, params: {value: 1}}
  s:
    stage: probe.sleep
    params: {seconds: 6}
    inputs: {inputs: a}
    resources: {custom: {far: 1}}
    retry: {attempts: 4, backoff: 10ms}
  end: {stage: probe.echo, params: {value: 2}, inputs: {inputs: s}}
"""


class Losing(api.Watcher):
    """Notes what happens; when the stage on the node has saved a state, the node goes without a word and another one comes."""

    def __init__(self, cluster: Cluster, node, store: Path) -> None:
        self.cluster = cluster
        self.node = node
        self.store = store
        self.seen: list[tuple[str, str, str]] = []

    def happened(self, events, status) -> None:
        self.seen += [(event["type"], event.get("node", ""), event.get("ending", "")) for event in events]

    def tick(self, status) -> None:
        """In the main thread, where Ray wants its nodes to be begun."""
        if self.node is not None and any(path.name.isdigit() for path in self.store.glob("work/checkpoints/*/*")):
            self.cluster.remove_node(self.node, allow_graceful=False)
            self.node = None
            self.cluster.add_node(num_cpus=1, resources={"far": 1})


def main(folder: Path) -> None:
    file, store = folder / "w.yaml", folder / "store"
    file.write_text(WORKFLOW)
    small = {"object_store_memory": own_cluster.OBJECT_STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **small})
    node = cluster.add_node(num_cpus=1, resources={"far": 1})
    ray.init(address=cluster.address, namespace=own_cluster.NAMESPACE, log_to_driver=False, logging_level="ERROR")
    cluster.wait_for_nodes()

    def executor(run: str) -> RayExecutor:
        made = RayExecutor(workspace.store, run=run)
        made._ray = ray  # attached to the cluster that stands
        return made

    workspace, events = api.open_workspace(str(store)), Losing(cluster, node, store)
    try:
        result = api.submit(api.plan(file, workspace=workspace), workspace=workspace, executor=executor, watcher=events)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert result.state is api.State.DONE, events.seen
    failed = [event for event in events.seen if event[0] == "attempt_failed"]
    assert failed, "nothing was lost"
    assert {event[1] for event in failed} == {"s"}, failed
    records = {record.label: record for record in workspace.artifacts.all_records()}
    assert set(records) == {"a", "s", "end"}
    assert records["s"].measurements["num_steps_resumed"] >= 20, "it did not go on from what it had saved"
    assert [event[1] for event in events.seen if event[0] == "node_done"] == ["a", "s", "end"]
    assert list(workspace.store.list("leases")) == []
    print(failed)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
