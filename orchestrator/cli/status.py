"""`status`: what runs now, or one run in full."""

from __future__ import annotations

import click

from orchestrator.cli.completing import complete_runs
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell


@command("status", example="orchestrator status @last")
@click.argument("run", required=False, shell_complete=complete_runs)
@click.option("--watch", is_flag=True, help="Follow the run until it ends.")
@pass_shell
def status(shell: Shell, run: str | None, watch: bool) -> int:
    """Show the live runs, or the nodes and trials of one run. RUN: id, its beginning, @last.

    Of a sweep the leading 20 trials are shown; -v adds the nodes of all trials.
    """
    from orchestrator import api
    from orchestrator.cli.following import follow, live_runs
    from orchestrator.errors import UsageError
    from orchestrator.report.found_sweeps import found_sweeps
    from orchestrator.report.progress import ProgressReader
    from orchestrator.report.status_table import runs_lines, status_document, status_lines

    workspace = shell.workspace
    if run is None:
        live = live_runs(workspace)
        if watch and not live:
            raise UsageError("no run is live, so there is nothing to watch", next_step="orchestrator ls")
        if not watch:
            if shell.as_json:
                shell.document({"runs": [status_document(found, {})["run"] for found in live]})
            elif live:
                shell.data(runs_lines(live, style=shell.style, width=shell.width))
            else:
                shell.say("no run is live. next: orchestrator ls")
            return 0
        run = live[0].id
    found = api.status(run, workspace=workspace)
    if watch:
        return follow(shell, found)
    progress = ProgressReader(workspace.ledger, found.id).read(found)
    sweeps = found_sweeps(found, workspace.artifacts)
    if shell.as_json:
        shell.document(status_document(found, progress, sweeps=sweeps))
    else:
        shell.data(
            status_lines(found, progress=progress, sweeps=sweeps, style=shell.style, width=shell.width, show_all=shell.verbose)
        )
    return 0
