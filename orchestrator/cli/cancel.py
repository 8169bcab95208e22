"""`cancel`: asking a run to stop, or a node or a trial of it while the rest goes on."""

from __future__ import annotations

import time

import click

from orchestrator.cli.completing import complete_nodes, complete_runs
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell
from orchestrator.errors import Interrupted, UsageError
from orchestrator.report.run_status import FINAL_STATES, RunStatus, read_run_status

SLACK_S = 90.0
"""How long after the grace a run may take to say that it has ended, or to be found without a driver."""

OPEN_STATES = ("planned", "running", "waiting", "retrying")
LOOK_EVERY_S = 0.2


@command("cancel", example="orchestrator cancel @last --grace 2m\norchestrator cancel @last search/t0007")
@click.argument("run", shell_complete=complete_runs)
@click.argument("name", metavar="[NODE|SWEEP/TRIAL]", required=False, shell_complete=complete_nodes)
@click.option("--grace", metavar="DURATION", help="How long stages may take to save before they are killed (60s).")
@click.option("--force", is_flag=True, help="Kill them at once: what they have not saved is lost.")
@click.option("--detach", is_flag=True, help="Ask, and do not wait until it has stopped.")
@pass_shell
def cancel(shell: Shell, run: str, name: str | None, grace: str | None, force: bool, detach: bool) -> int:
    """Ask a run, or a node or a trial of it, to save and stop, and wait for it.

    Finished artifacts and saved states stay; submitting the file again goes on
    from there. With NODE what needs it is stopped, too, and the rest of the run
    goes on; of SWEEP/TRIAL the sweep goes on without this trial.
    """
    from orchestrator import api
    from orchestrator.cli.durations import parse_duration
    from orchestrator.report.status_table import headline, status_document

    if force and grace is not None:
        raise UsageError("--force leaves no --grace", next_step="leave one of the two out")
    if name is not None and (force or grace is not None):
        raise UsageError(
            "--grace and --force are for a whole run; a node or a trial has the 10 s of the run",
            next_step=f"orchestrator cancel {run} {name}",
        )
    grace_s = 0.0 if force else parse_duration("--grace", grace or "60s")
    found = api.status(run, workspace=shell.workspace)
    if found.state in FINAL_STATES:
        shell.say(f"run {found.id} is not running: it is {found.state}")
    elif name is not None:
        found = _cancel_some(shell, found, name, waits=not detach)
    elif detach:
        shell.workspace.ledger.ask_to_cancel(found.id, grace_s=grace_s)
        shell.say(f"asked run {found.id} to stop; next: orchestrator wait {found.id}")
    else:
        how = "now" if force else f"within {grace or '60s'}"
        shell.say(f"asked run {found.id} to stop {how}; waiting for it")
        found = api.cancel(found.id, workspace=shell.workspace, wait_s=grace_s + SLACK_S, grace_s=grace_s)
        shell.say(headline(found, style=shell.err_style))
    if shell.as_json:
        shell.document(status_document(found, {}))
    return 0


def _cancel_some(shell: Shell, status: RunStatus, name: str, *, waits: bool) -> RunStatus:
    """Ask for the node's labels or for the trial; where `waits`, until they have stopped or the run has ended."""
    from orchestrator.cli.naming import nodes_of_run

    if name in status.sweeps:
        raise UsageError(
            f"{name} is a sweep; its search is stopped by another command, and a trial named as {name}/t0007",
            next_step=f"orchestrator sweep stop {status.id} {name}",
        )
    nodes = nodes_of_run(status, name)
    trials = list(dict.fromkeys(node.label.rpartition("/")[0] for node in nodes if node.is_of_trial))
    if trials and any(name == node.label for node in nodes):
        raise UsageError(
            f"{name} is a part of a trial, which stops as a whole", next_step=f"orchestrator cancel {status.id} {trials[0]}"
        )
    labels = [node.label for node in nodes]
    if not any(node.state in OPEN_STATES for node in nodes):
        states = ", ".join(dict.fromkeys(node.state for node in nodes))
        shell.say(f"{name} of run {status.id} is not running: it is {states}")
        return status
    shell.workspace.ledger.ask_to_cancel_some(status.id, trials or labels)
    shell.say(f"asked {name} of run {status.id} to stop; the rest goes on")
    deadline_s = time.monotonic() + SLACK_S
    while waits and status.state not in FINAL_STATES and any(status.nodes[label].state in OPEN_STATES for label in labels):
        if time.monotonic() > deadline_s:
            raise Interrupted(
                f"{name} of run {status.id} was asked to stop and has not", next_step=f"orchestrator status {status.id}"
            )
        time.sleep(LOOK_EVERY_S)
        status = read_run_status(shell.workspace.store, status.id)
    if waits:
        states = ", ".join(dict.fromkeys(status.nodes[label].state for label in labels))
        shell.say(f"{name} of run {status.id}: {states}")
    return status
