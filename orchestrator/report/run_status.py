"""A run as its ledger tells it: the state of each node and of the whole, folded from the request and the events."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from orchestrator.engine.run_options import options_recorded
from orchestrator.report.run_sweeps import SWEEP_EVENTS, RunSweep, apply_sweep_event, close_sweeps
from orchestrator.store.base import Store
from orchestrator.store.lease import Leases
from orchestrator.store.ledger import Ledger, RunRequest, node_folder
from orchestrator.workflow.budget import NOTHING, UNITS, Budget, Hours, exceeded
from orchestrator.workflow.plan import DRIFTED

FINAL_STATES = ("done", "failed", "cancelled", "interrupted")

MAX_QUEUED_S = 600.0
"""A cluster begins a job within seconds, or minutes where it has to start machines first; what waits longer is not coming."""

_NODE_STATES = {
    "node_started": "running",
    "node_waiting": "waiting",
    "node_done": "done",
    "node_failed": "failed",
    "node_skipped": "skipped",
    "node_blocked": "blocked",
    "node_cancelled": "cancelled",
    "attempt_stopped": "planned",
    "attempt_failed": "retrying",
}

_ATTEMPT_ENDS = ("attempt_failed", "attempt_stopped", "node_cancelled")
"""Events of attempts that came to nothing; `seconds` are those that they held what they had."""


@dataclass
class NodeStatus:
    """One node of a run. `state` is hit, planned, or what the last event made of it; `group` the trial that it is part of.

    `cpus` and `gpus` are what its last attempt held, `gpu_seconds` is what all that have ended came to.
    """

    label: str
    node: str
    stage: str
    key: str
    state: str
    group: str = ""
    attempt: int = 0
    started: str = ""
    ended: str = ""
    seconds: float = 0.0
    cpus: float = 1.0
    gpus: float = 0.0
    gpu_seconds: float = 0.0
    size_bytes: int = 0
    ending: str = ""
    error: str = ""
    error_type: str = ""
    failure_class: str = ""
    trace: str = ""
    note: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        return node_folder(self.node, self.key)

    @property
    def is_of_trial(self) -> bool:
        """Whether it is a node of a sweep's trial, whose `node` is "search.tune"."""
        return "." in self.node


@dataclass
class RunStatus:
    """A run. `state` is queued (a cluster was asked), running, done, failed, cancelled, or interrupted.

    Interrupted: whoever drove it is gone, and submitting again goes on.
    """

    id: str
    created: str
    workflow: str
    file: str
    state: str
    nodes: dict[str, NodeStatus]
    request: Mapping[str, Any]
    started: str = ""
    ended: str = ""
    seconds: float = 0.0
    offset: int = 0
    error: str = ""
    dashboard: str = ""
    over_budget: str = ""  # by what its budget was reached, where that has ended it
    spent: Hours = NOTHING  # by attempts that ended, failed ones too
    sweeps: dict[str, RunSweep] = field(default_factory=dict)

    def count(self, *states: str) -> int:
        """Number of nodes in one of these states."""
        return sum(node.state in states for node in self.nodes.values())

    def apply(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Fold further events in."""
        for event in events:
            kind = event["type"]
            if kind == "run_started":
                self.started, self.state = event.get("time", ""), "running"
            elif kind == "run_finished":
                self.ended, self.state, self.seconds = event.get("time", ""), event["state"], event.get("seconds", 0.0)
                self.error = event.get("error", "")
                self.over_budget = self.over_budget if self.state == "cancelled" else ""
                self._close_nodes("cancelled" if self.state == "cancelled" else "interrupted")
            elif kind == "budget_reached":
                self.over_budget = event["over"]
            elif kind == "dashboard_ready":
                self.dashboard = event["url"]
            elif kind == "nodes_added":
                self.nodes = {**self.nodes, **_nodes_of_plan(event["nodes"])}  # anew: other threads may be reading it
            elif kind in _NODE_STATES and event["node"] in self.nodes:
                _apply_to_node(self.nodes[event["node"]], event)
                self.spent += _spent(self.nodes[event["node"]], event)
            elif kind in SWEEP_EVENTS:
                self.sweeps = apply_sweep_event(self.sweeps, event, self.request)

    def end_without_word(self) -> None:
        """Whoever drove the run is gone."""
        self.state = "interrupted"
        self._close_nodes("interrupted")

    def _close_nodes(self, state: str) -> None:
        """Nothing runs in a run that has ended."""
        for node in self.nodes.values():
            if node.state in ("running", "waiting", "retrying"):
                node.state = state
        close_sweeps(self.sweeps, state)


def again_command(status: RunStatus) -> str:
    """The command that goes on where a run ended: from its own record where that was not made from the file as it is."""
    if status.over_budget:
        return f"orchestrator resume {status.id} --budget {_larger_budget(status)}"
    return f"orchestrator resume {status.id}" if status.request.get("origin") else submit_command(status.request)


def _larger_budget(status: RunStatus) -> str:
    """Twice the budget of the run, or as often twice as it takes: what ran to its end may have spent far more than it."""
    had = options_recorded(status.request)
    limits, spent = status.request.get("budget", {}), had.spent_before + status.spent
    factor = 2
    while limits and exceeded(Budget(**{name: factor * limit for name, limit in limits.items()}), spent, had.prices):
        factor *= 2
    return ",".join(f"{factor * limit:g}{UNITS[name]}" for name, limit in limits.items())


def submit_command(request: Mapping[str, Any]) -> str:
    """The command that asks for the same again: file, overrides, selection and executor as they were."""
    selection = request.get("selection", {})
    rerun = selection.get("rerun", ())
    flags = {"--set": request["overrides"], "--rerun": [name for name in rerun if name != DRIFTED]}
    flags |= {"--from": selection.get("start", ()), "--until": selection.get("until", ())}
    words = [word for flag, values in flags.items() for value in values for word in (flag, value)]
    words += ["--strict"] if DRIFTED in rerun else []
    words += ["--executor", request["executor"]] if request["executor"] == "inline" else []
    cluster = request.get("cluster", {})
    words += ["--address", cluster["address"]] if cluster else []
    words += ["--store-is-shared"] if cluster.get("store_is_shared") else []
    words += ["--max-gpus", f"{request['max_gpus']:g}"] if request.get("max_gpus") else []
    budget = request.get("budget", {})
    words += ["--budget", ",".join(f"{limit:g}{UNITS[name]}" for name, limit in budget.items())] if budget else []
    words += ["--keep-going"] if request.get("keep_going") else []
    return shlex.join(["orchestrator", "submit", request["file"], *words])


def _nodes_of_plan(rows: Iterable[Sequence[str]]) -> dict[str, NodeStatus]:
    """Nodes as a plan has them, by label; rows of nodes that were added later end with their group."""
    states = {"HIT": "hit", "SKIP": "skipped"}
    return {
        label: NodeStatus(label, node, stage, key, states.get(status, "planned"), group="".join(group))
        for label, node, stage, key, status, *group in rows
    }


def _spent(node: NodeStatus, event: Mapping[str, Any]) -> Hours:
    """What an attempt that has just ended held, times its seconds; nothing for what others made."""
    is_end = event["type"] in _ATTEMPT_ENDS or (event["type"] == "node_done" and event["ending"] == "done")
    hours = event.get("seconds", 0.0) / 3600 if is_end else 0.0
    return Hours(node.gpus * hours, node.cpus * hours)


def _apply_to_node(node: NodeStatus, event: Mapping[str, Any]) -> None:
    kind = event["type"]
    node.state = _NODE_STATES[kind]
    if kind == "node_started":
        node.attempt, node.started, node.error = event["attempt"], event.get("time", ""), ""
        node.cpus, node.gpus = event.get("cpus", 1.0), event.get("gpus", 0.0)
        node.note = node.ended = ""
    elif kind == "node_done":
        node.gpu_seconds += node.gpus * event["seconds"] if event["ending"] == "done" else 0.0
        node.ended, node.seconds, node.metrics = event.get("time", ""), event["seconds"], event["metrics"]
        node.ending, node.size_bytes = event["ending"], event.get("size_bytes", 0)
    elif kind in ("node_failed", "attempt_failed"):
        node.error, node.error_type, node.trace = event["error"], event["error_type"], event["trace"]
        node.ending, node.ended = event["ending"], event.get("time", "")
        node.failure_class, node.note = event.get("class", ""), event.get("note", "")
        node.gpu_seconds += node.gpus * event.get("seconds", 0.0) if kind == "attempt_failed" else 0.0
    elif kind in ("attempt_stopped", "node_cancelled"):
        node.ended = event.get("time", "")
        node.gpu_seconds += node.gpus * event.get("seconds", 0.0)
    elif kind == "node_waiting":
        node.note = f"run {event['holder']} is making it"
    elif kind == "node_skipped":
        node.note = event["why"]
    elif kind == "node_blocked":
        node.note = f"needs {event['by']}, which failed"


def read_run_status(store: Store, run: str) -> RunStatus:
    """The present status of a run from its ledger alone; nothing needs to be running."""
    ledger = Ledger(store)
    request = ledger.request(run)
    content = request.content
    status = RunStatus(
        id=run, created=request.created, workflow=content["workflow"], file=content["file"], state="starting",
        nodes=_nodes_of_plan(content["plan"]), request=content,
    )  # fmt: skip
    _read_further(status, ledger)
    if status.state not in FINAL_STATES and Leases(store, run=run).holder(f"run-{run}") is None:
        _read_further(status, ledger)  # it may have ended between the two looks
        if status.state == "starting" and _may_yet_begin(request):
            status.state = "queued"
        elif status.state not in FINAL_STATES:
            status.end_without_word()
    return status


def _may_yet_begin(request: RunRequest) -> bool:
    """Whether a cluster was asked to drive the run, not too long ago; clocks of two machines differ by far less."""
    if not request.content.get("cluster", {}).get("is_job"):
        return False
    return (datetime.now(UTC) - datetime.fromisoformat(request.created)).total_seconds() < MAX_QUEUED_S


def _read_further(status: RunStatus, ledger: Ledger) -> None:
    events, status.offset = ledger.events(status.id, offset=status.offset)
    status.apply(events)
