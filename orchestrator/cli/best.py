"""`best`: the winner of each sweep of a run, how sure that is, and how to get its files."""

from __future__ import annotations

import click

from orchestrator.cli.completing import complete_runs
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell


@command("best", example="orchestrator best @last --metric score.latency_ms_b1 --top 5")
@click.argument("run", required=False, default="@last", shell_complete=complete_runs)
@click.option("--sweep", "sweep_name", metavar="NAME", help="Only this sweep.")
@click.option("--metric", metavar="NODE.METRIC", help="Rank by this instead (also NODE.METRIC:minimize).")
@click.option(
    "--top", metavar="N", type=click.IntRange(min=1), default=1, help="A table of the N best that meet the constraints."
)
@pass_shell
def best(shell: Shell, run: str, sweep_name: str | None, metric: str | None, top: int) -> int:
    """Show the best trial of each sweep of RUN (default: @last), or the best so far.

    Exits with 4 where no trial meets the constraints, and names the nearest.
    """
    from orchestrator import api
    from orchestrator.cli.following import EXIT_UNMET
    from orchestrator.report.best import best_document, best_lines, copy_command, find_best
    from orchestrator.report.found_sweeps import found_sweeps, pick_sweeps

    artifacts = shell.workspace.artifacts
    status = api.status(run, workspace=shell.workspace)
    sweeps = pick_sweeps(found_sweeps(status, artifacts), status, sweep_name)
    found = [find_best(sweep, status, artifacts, metric=metric) for sweep in sweeps]
    if shell.as_json:
        shell.document({"run": status.id, "sweeps": [best_document(each, top=top) for each in found]})
    else:
        for each in found:
            shell.data(best_lines(each, top=top, style=shell.style, width=shell.width))
            if each.winner is not None and each.winner.keys:
                shell.say(f"next: {copy_command(each)}")
            elif each.winner is None:
                shell.say(f"next: orchestrator sweep show {status.id} {each.found.name}")
    return 0 if all(each.winner is not None for each in found) else EXIT_UNMET
