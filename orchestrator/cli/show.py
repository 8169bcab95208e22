"""`show`: one run or one artifact in full."""

from __future__ import annotations

import click

from orchestrator.cli.completing import complete_runs_and_artifacts
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell


@command("show", example="orchestrator show 9f31c2d0")
@click.argument("name", metavar="RUN|KEY|NAME|RUN/NODE", shell_complete=complete_runs_and_artifacts)
@pass_shell
def show(shell: Shell, name: str) -> int:
    """Show a run or an artifact: by id, key or the beginning of one, or by name."""
    from orchestrator import api
    from orchestrator.cli.naming import is_run, record_of_key
    from orchestrator.report.found_sweeps import found_sweeps, result_of
    from orchestrator.report.record_text import record_document, record_lines, run_lines
    from orchestrator.report.status_table import status_document, status_lines
    from orchestrator.report.sweep_table import sweep_document
    from orchestrator.workflow.sweep_result import SWEEP_STAGE

    if is_run(shell.workspace, name):
        status = api.status(name, workspace=shell.workspace)
        sweeps = found_sweeps(status, shell.workspace.artifacts)
        if shell.as_json:
            shell.document(status_document(status, {}, sweeps=sweeps, with_text=True))
            return 0
        shell.data(run_lines(status, style=shell.style, width=shell.width))
        shell.data(
            status_lines(status, progress={}, sweeps=sweeps, style=shell.style, width=shell.width, show_all=shell.verbose)
        )
        return 0
    record = record_of_key(shell.workspace, name)
    found = result_of(record, shell.workspace.artifacts) if record.stage == SWEEP_STAGE else None
    if shell.as_json:
        shell.document({**record_document(record), **({"sweep": sweep_document(found)} if found is not None else {})})
    else:
        shell.data(record_lines(record, found=found, style=shell.style, width=shell.width))
    return 0
