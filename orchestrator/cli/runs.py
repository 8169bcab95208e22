"""`ls` and `cancel`: all runs of the store, and asking one to stop."""

from __future__ import annotations

import click

from orchestrator.cli.completing import complete_runs
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell


@command("ls", example="orchestrator ls --limit 5")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), default=20, show_default=True, help="How many runs at most.")
@pass_shell
def list_runs(shell: Shell, limit: int) -> int:
    """List runs, newest first; needs nothing to be running."""
    from orchestrator.report.run_status import read_run_status
    from orchestrator.report.status_table import runs_lines, status_document

    workspace = shell.workspace
    requests = workspace.ledger.runs()
    runs = [read_run_status(workspace.store, request.id) for request in requests[:limit]]
    if shell.as_json:
        documents = [status_document(run, {})["run"] for run in runs]
        shell.document({"runs": [{name: value for name, value in run.items() if name != "nodes"} for run in documents]})
    elif runs:
        shell.data(runs_lines(runs, style=shell.style, width=shell.width))
        if len(requests) > limit:
            shell.say(f"{len(requests) - limit} older runs; next: orchestrator ls --limit {len(requests)}")
    else:
        shell.say(f"no runs in {shell.place()} yet. next: orchestrator submit FILE")
    return 0


@command("cancel", example="orchestrator cancel @last --grace 2m")
@click.argument("run", shell_complete=complete_runs)
@click.option("--grace", metavar="DURATION", default="60s", show_default=True, help="How long to wait until it has stopped.")
@pass_shell
def cancel(shell: Shell, run: str, grace: str) -> int:
    """Ask a run to save and stop, and wait until it has.

    Finished artifacts and saved states stay; submitting the file again goes on from there.
    """
    from orchestrator import api
    from orchestrator.cli.durations import parse_duration
    from orchestrator.report.run_status import FINAL_STATES
    from orchestrator.report.status_table import headline, status_document

    wait_s = parse_duration("--grace", grace)
    before = api.status(run, workspace=shell.workspace)
    if before.state in FINAL_STATES:
        shell.say(f"run {before.id} is not running: it is {before.state}")
        found = before
    else:
        shell.say(f"asked run {before.id} to stop; waiting up to {grace}")
        found = api.cancel(before.id, workspace=shell.workspace, wait_s=wait_s)
        shell.say(headline(found, style=shell.err_style))
    if shell.as_json:
        shell.document(status_document(found, {}))
    return 0
