"""`ls`: all runs of the store, newest first."""

from __future__ import annotations

import shlex

import click

from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell


@command("ls", example="orchestrator ls --where 'tag.team=vision and status=failed'")
@click.option("--limit", metavar="N", type=click.IntRange(min=1), default=20, show_default=True, help="How many runs at most.")
@click.option("--where", metavar="CONDITIONS", help="Only runs that meet them: FIELD=VALUE and ...")
@pass_shell
def list_runs(shell: Shell, limit: int, where: str | None) -> int:
    """List runs, newest first; needs nothing to be running.

    Of all users of the store. Fields to ask for: status, workflow, file, id,
    user, executor, tag.NAME, each with =, != or ~ (contains); age and seconds
    with < or > and a duration (age<7d).
    """
    from orchestrator.report.run_filter import parse_where, select_runs
    from orchestrator.report.run_status import read_run_status
    from orchestrator.report.status_table import runs_lines, status_document

    workspace = shell.workspace
    requests = workspace.ledger.runs()
    conditions = parse_where(where) if where is not None else []
    store = workspace.store
    runs, has_more = select_runs(requests, conditions, lambda run: read_run_status(store, run), limit=limit, width=store.width)
    if shell.as_json:
        documents = [status_document(run, {})["run"] for run in runs]
        shell.document({"runs": [{name: value for name, value in run.items() if name != "nodes"} for run in documents]})
    elif runs:
        shell.data(runs_lines(runs, style=shell.style, width=shell.width))
        if has_more and where is None:
            shell.say(f"{len(requests) - limit} older runs; next: orchestrator ls --limit {len(requests)}")
        elif has_more:
            shell.say(f"there are more; next: orchestrator ls --where {shlex.quote(where or '')} --limit {limit * 5}")
    elif requests:
        shell.say(f"none of {len(requests)} runs meets that. next: orchestrator ls")
    else:
        shell.say(f"no runs in {shell.place()} yet. next: orchestrator submit FILE")
    return 0
