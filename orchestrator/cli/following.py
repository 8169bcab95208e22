"""Following a run that another process drives, and finding those that are driven now."""

from __future__ import annotations

import time
from collections.abc import Callable

from orchestrator import api
from orchestrator.cli.shell import Shell
from orchestrator.report.run_lines import end_line
from orchestrator.report.run_status import FINAL_STATES, RunStatus, read_run_status

EXIT_FAILED = 3
EXIT_UNMET = 4
EXIT_BUDGET = 6
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
LOOK_EVERY_S = 0.5
SECOND_CTRL_C_S = 3.0

_EXIT_CODES = {"done": 0, "failed": EXIT_FAILED, "cancelled": EXIT_INTERRUPTED, "interrupted": EXIT_INTERRUPTED}


def exit_code(state: str, *, signal_number: int = 0, over_budget: str = "") -> int:
    """The exit code that tells how a run ended."""
    if state == "cancelled" and over_budget:
        return EXIT_BUDGET
    code = _EXIT_CODES.get(state, EXIT_FAILED)
    return EXIT_TERMINATED if code == EXIT_INTERRUPTED and signal_number == 15 else code


def live_runs(workspace: api.Workspace) -> list[RunStatus]:
    """Runs that some living process drives, newest first; found by their leases, so old runs cost nothing."""
    names = [name.removeprefix("run-") for name in workspace.store.list("leases") if name.startswith("run-")]
    found = [read_run_status(workspace.store, name) for name in names]
    live = [run for run in found if run.state not in FINAL_STATES]
    return sorted(live, key=lambda run: run.created, reverse=True)


def follow(shell: Shell, status: RunStatus) -> int:
    """Show what happens in a run until it ends; its exit code. Ctrl-C ends the watching, never the run."""
    ended = watch(shell, status)
    if ended is None:
        return detached(shell, status.id)
    if shell.as_json:
        shell.json_line({"type": "end", "run": ended.id, "state": ended.state})
    shell.say(end_line(ended, style=shell.err_style))
    return ended_code(ended, shell.workspace)


def watch(shell: Shell, status: RunStatus, *, look: Callable[[RunStatus], None] = lambda _status: None) -> RunStatus | None:
    """Show what happens in a run until it ends; its last status, None after Ctrl-C. `look` is called at every turn."""
    from orchestrator.cli.watching import make_watcher

    workspace = shell.workspace
    watcher = make_watcher(shell)
    watcher.promise = "Ctrl-C ends the watching; the run goes on"
    offset = status.offset
    try:
        with watcher.watching():
            watcher.started(status)
            while status.state not in FINAL_STATES and not shell.reader_is_gone:
                time.sleep(LOOK_EVERY_S)
                look(status)
                status = read_run_status(workspace.store, status.id)
                events, offset = workspace.ledger.events(status.id, offset=offset)
                if events:
                    watcher.happened(events, status)
                watcher.tick(status)
    except KeyboardInterrupt:
        return None
    return status


def left_alone(shell: Shell, run: str) -> int:
    """Name a run that the cluster has and that nobody here waits for (--detach), and the commands that look after it."""
    if shell.as_json:
        cluster = shell.workspace.ledger.request(run).content.get("cluster", {})
        shell.json_line({"type": "submitted", "run": run, "address": cluster.get("address", "")})
    next_commands = ("status {} --watch", "logs {}", "wait {}", "cancel {}")
    shell.say("next:", *(f"   {shell.program} {command.format(run)}" for command in next_commands))
    return 0


def detached(shell: Shell, run: str) -> int:
    """After a first Ctrl-C: say that the run goes on, and for a moment take a second one as the wish that it stops."""
    try:
        shell.say(
            "", f"no longer watching; run {run} goes on (Ctrl-C again now asks it to stop)",
            f"   next: orchestrator status {run} --watch, or orchestrator cancel {run}",
        )  # fmt: skip
        time.sleep(SECOND_CTRL_C_S)
    except KeyboardInterrupt:
        shell.workspace.ledger.ask_to_cancel(run)
        shell.say("", f"asked run {run} to save and stop", f"   next: orchestrator wait {run}")
    return EXIT_INTERRUPTED


def ended_code(status: RunStatus, workspace: api.Workspace) -> int:
    """The exit code with which a run ended, or would have if its process had lived."""
    code = exit_code(status.state, over_budget=status.over_budget)
    if code or "sweep" not in status.request.get("text", ""):
        return code
    from orchestrator.report.found_sweeps import found_sweeps

    found = found_sweeps(status, workspace.artifacts)
    return EXIT_UNMET if any(sweep.is_settled and sweep.sweep.best is None for sweep in found) else 0
