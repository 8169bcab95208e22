"""From what a person types to what is meant: nodes of a run, artifacts by the beginning of a key."""

from __future__ import annotations

import difflib

from orchestrator.api import Workspace
from orchestrator.errors import UsageError
from orchestrator.report.run_status import NodeStatus, RunStatus
from orchestrator.store.artifacts import Record


def nodes_of_run(status: RunStatus, name: str) -> list[NodeStatus]:
    """The node with this label, or all instances of the node with this name; UsageError says what there is."""
    if name in status.nodes:
        return [status.nodes[name]]
    found = [node for node in status.nodes.values() if node.node == name]
    if found:
        return found
    names = list(dict.fromkeys([*(node.node for node in status.nodes.values()), *status.nodes]))
    near = difflib.get_close_matches(name, names, n=1)
    hint = f'; did you mean "{near[0]}"?' if near else f"; it has {', '.join(names[:8])}"
    raise UsageError(f'run {status.id} has no node "{name}"{hint}', next_step=f"orchestrator status {status.id}")


def record_of_key(workspace: Workspace, prefix: str) -> Record:
    """The finished artifact whose key begins so; UsageError if there is none or more than one."""
    found = workspace.artifacts.keys_starting(prefix.lower()) if prefix else []
    if len(found) > 1:
        keys = ", ".join(f"{key[:12]} ({stage})" for stage, key in found[:6])
        raise UsageError(f'"{prefix}" begins several keys: {keys}', next_step="type more letters of the key")
    if not found:
        raise UsageError(f'no artifact\'s key begins with "{prefix}"', next_step="orchestrator artifacts ls")
    stage, key = found[0]
    record = workspace.artifacts.find(stage, key)
    if record is None:
        raise UsageError(
            f"artifact {key[:8]} of {stage} is damaged: its record cannot be read, or files are gone from the store",
            next_step="submit its workflow again: it will be made anew",
        )
    return record


def is_run(workspace: Workspace, name: str) -> bool:
    """Whether `name` means a run; UsageError where it begins both a run's id and an artifact's key."""
    if name.startswith("@"):
        return True
    begins_run = any(run.startswith(name) for run in workspace.store.list("runs"))
    if begins_run and workspace.artifacts.keys_starting(name):
        raise UsageError(f"\"{name}\" begins both a run's id and an artifact's key", next_step="type more letters of it")
    return begins_run
