"""From what a person types to what is meant: nodes of a run, artifacts by name or by the beginning of a key."""

from __future__ import annotations

import difflib

from orchestrator.api import Workspace
from orchestrator.errors import UsageError
from orchestrator.report.found_sweeps import FoundSweep, found_sweeps
from orchestrator.report.run_status import NodeStatus, RunStatus, read_run_status
from orchestrator.store.artifacts import Record
from orchestrator.store.names import Names
from orchestrator.workflow.trials import trial_name


def nodes_of_run(status: RunStatus, name: str) -> list[NodeStatus]:
    """The node with this label, all instances of the node with this name, or all nodes of a trial ("search/t0007").

    UsageError says what there is.
    """
    if name in status.nodes:
        return [status.nodes[name]]
    found = [node for node in status.nodes.values() if node.node == name] or _nodes_of_trial(status, name)
    if found:
        return found
    plain = [node for node in status.nodes.values() if not node.is_of_trial]
    names = list(dict.fromkeys([*(node.node for node in plain), *(node.label for node in plain), *status.sweeps]))
    near = difflib.get_close_matches(name, names, n=1)
    hint = f'; did you mean "{near[0]}"?' if near else f"; it has {', '.join(names[:8])}"
    raise UsageError(f'run {status.id} has no node "{name}"{hint}', next_step=f"orchestrator status {status.id}")


def _nodes_of_trial(status: RunStatus, name: str) -> list[NodeStatus]:
    """The nodes of a trial, named by "search/t0007", "search/7" or a unique beginning; UsageError where there is none."""
    sweep, slash, trial = name.partition("/")
    trials = list(dict.fromkeys(node.label.rpartition("/")[0] for node in status.nodes.values() if node.is_of_trial))
    sweeps = list(dict.fromkeys(label.partition("/")[0] for label in trials))
    if not sweeps or sweep not in sweeps:
        return []
    of_sweep = [label for label in trials if label.partition("/")[0] == sweep]
    if not slash or not trial:
        return [node for node in status.nodes.values() if node.is_of_trial and node.label.startswith(f"{sweep}/")]
    wanted, _, part = trial.partition("/")
    wanted = trial_name(int(wanted)) if wanted.isdigit() else wanted
    label = f"{sweep}/{wanted}"
    found = [label] if label in of_sweep else [each for each in of_sweep if each.startswith(label)]
    next_step = f"orchestrator sweep show {status.id} {sweep}"
    if len(found) > 1:
        raise UsageError(f'"{name}" begins several trials: {", ".join(found[:6])}', next_step=next_step)
    if not found:
        trial_of_run = status.sweeps[sweep].trials.get(_number(wanted)) if sweep in status.sweeps else None
        if trial_of_run is not None:
            why = trial_of_run.error or "; ".join(trial_of_run.violated)
            raise UsageError(f"trial {label} is {trial_of_run.state} and has run nothing: {why}", next_step=next_step)
        names = sorted(each.rpartition("/")[2] for each in of_sweep)
        has = f"{names[0]} to {names[-1]}" if len(names) > 1 else names[0]
        if sweep in status.sweeps and status.sweeps[sweep].known:
            has += "; others were ended by earlier runs"
        raise UsageError(f'run {status.id} has run no trial "{wanted}" of sweep {sweep}; it has run {has}', next_step=next_step)
    nodes = [node for node in status.nodes.values() if node.label.rpartition("/")[0] == found[0]]
    if not part:
        return nodes
    named = [node for node in nodes if node.label.rpartition("/")[2] == part]
    if not named:
        parts = ", ".join(node.label.rpartition("/")[2] for node in nodes)
        raise UsageError(f'trial {found[0]} has no node "{part}"; it has {parts}', next_step=next_step)
    return named


def _number(trial: str) -> int:
    digits = trial.removeprefix("t")
    return int(digits) if digits.isdigit() else -1


def record_of_key(workspace: Workspace, prefix: str) -> Record:
    """The finished artifact that has this name ("vit-sparse", "vit-sparse@3"), whose key begins so, or "RUN/NODE".

    UsageError if there is none or more than one.
    """
    if "/" in prefix:
        return artifact_named(workspace, prefix)[0]
    mark = Names(workspace.store).find(prefix)
    if mark is not None:
        record = workspace.artifacts.find(mark.stage, mark.key)
        if record is None:
            raise UsageError(
                f"{mark} means artifact {mark.key[:8]} of {mark.stage}, which is damaged or gone from the store",
                next_step="submit its workflow again: it will be made anew, and the name means it again",
            )
        return record
    found = workspace.artifacts.keys_starting(prefix.lower()) if prefix else []
    if len(found) > 1:
        keys = ", ".join(f"{key[:12]} ({stage})" for stage, key in found[:6])
        raise UsageError(f'"{prefix}" begins several keys: {keys}', next_step="type more letters of the key")
    if not found:
        raise UsageError(
            f'no artifact\'s key begins with "{prefix}", and none has that name', next_step="orchestrator artifacts ls"
        )
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
    if "/" in name:
        return False
    if name.startswith("@"):
        return True
    if Names(workspace.store).find(name) is not None:
        return False
    begins_run = any(run.startswith(name) for run in workspace.store.list("runs"))
    if begins_run and workspace.artifacts.keys_starting(name):
        raise UsageError(f"\"{name}\" begins both a run's id and an artifact's key", next_step="type more letters of it")
    return begins_run


def artifact_named(workspace: Workspace, name: str) -> tuple[Record, dict[str, str]]:
    """The artifact that the beginning of a key or "RUN/NODE" means, and the stages of that run's nodes by key."""
    run, slash, label = name.partition("/")
    if not slash:
        return record_of_key(workspace, name), {}
    status = read_run_status(workspace.store, workspace.ledger.resolve(run))
    stages = {each.key: each.stage for each in status.nodes.values()}
    sweeps = {found.name: found for found in found_sweeps(status, workspace.artifacts)}
    sweep, _, trial = label.partition("/")
    if sweep in sweeps and trial:
        return record_of_key(workspace, _key_in_trial(sweeps[sweep], trial, run=status.id)), stages
    nodes = nodes_of_run(status, label)
    if len(nodes) > 1:
        labels = ", ".join(each.label for each in nodes[:6])
        raise UsageError(f'"{label}" means several nodes of run {status.id}: {labels}', next_step="name one of them")
    record = workspace.artifacts.find(nodes[0].stage, nodes[0].key)
    if record is None:
        raise UsageError(
            f"node {nodes[0].label} of run {status.id} has made no artifact: it is {nodes[0].state}",
            next_step=f"orchestrator status {status.id}",
        )
    return record, stages


def _key_in_trial(found: FoundSweep, name: str, *, run: str) -> str:
    """The key that "t0007/tune", "7/tune" or "best/tune" means; without a node, of the trial's last."""
    wanted, _, part = name.partition("/")
    next_step = f"orchestrator sweep show {run} {found.name}"
    if wanted == "best":
        leader = found.sweep.leader
        if leader is None:
            raise UsageError(f"no trial of sweep {found.name} meets the constraints", next_step=next_step)
        number = leader.number
    else:
        number = _number(wanted)
    trial = next((trial for trial in found.trials if trial.number == number), None)
    if trial is None or not trial.keys:
        state = f"is {trial.state} and has run nothing" if trial is not None else "is not there"
        raise UsageError(f'trial "{wanted}" of sweep {found.name} {state}', next_step=next_step)
    part = part or found.main_part(trial)
    if part not in trial.keys:
        raise UsageError(
            f'trial {found.label(number)} has no node "{part}"; it has {", ".join(trial.keys)}', next_step=next_step
        )
    return trial.keys[part]
