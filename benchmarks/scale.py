"""A search of 1,000 trials with 100 nodes each, nine tenths of them shared, planned and driven in virtual time.

    python benchmarks/scale.py 10 100 1000          trials; a table of seconds, bytes and microseconds per node

Planning is the real thing: settings checked, keys computed, the store asked for each. The run is the real scheduler over a
simulated cluster of 1,000 one-core workers where one attempt in a hundred fails. Seconds are of this process, not virtual
ones; what a node takes is told in CPU time, which others on the machine disturb less.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from typing import Any

from orchestrator import api
from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.executors.simulated import SimulatedCluster, random_attempts
from orchestrator.engine.scheduler import Event, RunOptions, Scheduler
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text
from orchestrator.workflow.plan import Plan, PlanNode
from orchestrator.workflow.statuses import StatusRules
from orchestrator.workflow.trials import plan_trial

NODES_PER_TRIAL = 100
SHARED = 90
WORKERS = 1000


def workflow(trials: int) -> str:
    """A chain of stages; the searched value enters where the last tenth begins, so that what is before is shared."""
    nodes: dict[str, Any] = {}
    for i in range(NODES_PER_TRIAL):
        params = {"seconds": 60} | ({} if i == SHARED else {"value": i})
        nodes[f"s{i}"] = {"stage": "probe.sleep", "params": params, **({"inputs": {"inputs": [f"s{i - 1}"]}} if i else {})}
    search = {
        "trials": trials, "sampler": "random", "objectives": {f"s{NODES_PER_TRIAL - 1}.value": "minimize"},
        "space": {f"s{SHARED}.value": {"int": [0, 10**9]}},
    }  # fmt: skip
    return json.dumps({"version": 1, "name": "scale", "nodes": {"search": {"sweep": search, "nodes": nodes}}})


def make_plan(trials: int) -> Plan:
    """All trials of the search as one plan."""
    checked = check_workflow(load_text(workflow(trials), file="scale.yaml"))
    nodes: dict[str, PlanNode] = {}
    with tempfile.TemporaryDirectory() as folder:
        workspace = api.open_workspace(f"{folder}/store")
        sweep = api.plan_checked(checked, workspace=workspace).sweeps["search"]
        rules = StatusRules(workspace.artifacts)
        for number in range(trials):
            trial = f"search/t{number:04d}"
            own = plan_trial(sweep.checked, trial=trial, values={f"s{SHARED}.value": number}, outer=sweep.outer)
            for label, node in own.items():
                nodes[label] = rules.apply(node, nodes)
    return Plan(checked, nodes)


def measure(trials: int) -> dict[str, float]:
    """Seconds and bytes of planning and of driving it."""
    make_plan(1)  # what is read once for each process: stages, their sources
    began, began_cpu = time.perf_counter(), time.process_time()
    plan = make_plan(trials)
    planned_s, planned_cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    planned_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    attempts = random_attempts(lambda work: 60 + int(work.key[:2], 16) / 10, failure_rate=0.01)
    cluster = SimulatedCluster(attempts, shapes=[MachineShape(cpus=1)] * WORKERS)
    num_events = 0

    def emit(events: list[Event]) -> None:
        nonlocal num_events
        num_events += len(events)

    began, began_cpu = time.perf_counter(), time.process_time()
    scheduler = Scheduler(
        plan, run="scale", executor=cluster, shapes=cluster.shapes, artifacts=cluster, leases=cluster, clock=cluster,
        emit=emit, options=RunOptions(keep_going=True, tick_s=10.0),
    )  # fmt: skip
    state = scheduler.drive()
    driven_s, driven_cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    assert state.value == "done", state
    return {
        "nodes": len(plan.nodes),
        "distinct": len({node.key for node in plan.nodes.values()}),
        "planned_s": planned_s,
        "planned_cpu_s": planned_cpu_s,
        "planned_gib": planned_gib,
        "driven_s": driven_s,
        "driven_cpu_s": driven_cpu_s,
        "attempts": len(cluster.executions),
        "events": num_events,
        "virtual_h": cluster.now_s / 3600,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def measure_in_a_process(trials: int) -> dict[str, float]:
    """The same in a process of its own, so that memory is its own too."""
    done = subprocess.run([sys.executable, __file__, "--json", str(trials)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    words = sys.argv[1:] or ["10", "100", "1000"]
    if words[0] == "--json":
        print(json.dumps(measure(int(words[1]))))
        return
    print(f"{'nodes':>8} {'distinct':>9} {'planned':>9} {'a node':>8} {'memory':>9} {'driven':>9} {'a node':>8} {'memory':>9}")
    for word in words:
        found = measure_in_a_process(int(word))
        nodes = found["nodes"]
        print(
            f"{nodes:>8,} {found['distinct']:>9,} {found['planned_s']:>7.2f} s {found['planned_cpu_s'] / nodes * 1e6:>5.0f} us"
            f" {found['planned_gib']:>5.2f} GiB {found['driven_s']:>7.2f} s {found['driven_cpu_s'] / nodes * 1e6:>5.0f} us"
            f" {found['peak_gib']:>5.2f} GiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
