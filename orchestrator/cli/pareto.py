"""`pareto`: the non-dominated trials of one or several runs, as a table, a file or a picture."""

from __future__ import annotations

import click

from orchestrator.cli.completing import complete_runs
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell


@command("pareto", example="orchestrator pareto @last --plot front.svg\norchestrator pareto k7m2/search p3x8 --csv -")
@click.argument("runs", metavar="[RUN]...", nargs=-1, default=("@last",), shell_complete=complete_runs)
@click.option("--csv", "csv_file", metavar="FILE", help='All measured trials as CSV, front first ("-": stdout).')
@click.option("--plot", metavar="FILE", help="A picture: .png, .svg, or .html (one page).")
@pass_shell
def pareto(shell: Shell, runs: tuple[str, ...], csv_file: str | None, plot: str | None) -> int:
    """Show the non-dominated trials over the declared objectives of one or several runs together.

    RUN is a run's id or its beginning, @last (the default), or RUN/SWEEP for one of its sweeps.
    Several sweeps must have the same objectives. Exits with 4 where no trial
    meets the constraints.
    """
    from orchestrator import api
    from orchestrator.cli.following import EXIT_UNMET
    from orchestrator.errors import UsageError
    from orchestrator.report.found_sweeps import FoundSweep, found_sweeps, pick_sweeps
    from orchestrator.report.trade_offs import nearest_text, trade_off_document, trade_off_lines, trade_offs

    form = _format(plot)
    if shell.as_json and csv_file == "-":
        raise UsageError("--json and --csv - both want stdout", next_step="--csv front.csv")
    sweeps: dict[tuple[str, str], FoundSweep] = {}
    for name in runs:
        run, _, sweep_name = name.partition("/")
        status = api.status(run, workspace=shell.workspace)
        for each in pick_sweeps(found_sweeps(status, shell.workspace.artifacts), status, sweep_name or None):
            sweeps[each.run, each.name] = each
    found = trade_offs(list(sweeps.values()))
    if shell.as_json:
        shell.document(trade_off_document(found))
    if csv_file is not None:
        from orchestrator.cli.files import write_out
        from orchestrator.report.trial_export import csv_text

        members = set(found.front)
        order = [*found.front, *(index for index in range(len(found.points)) if index not in members)]
        rows = [(found.points[index].found, found.points[index].trial) for index in order]
        text = csv_text(rows, extra={"is_on_front": [index in members for index in order]})
        write_out(shell, csv_file, text, what=f"{len(rows)} trials, {len(members)} on the front,")
    if plot is not None:
        from orchestrator.cli.files import write_file
        from orchestrator.report.trade_off_plot import draw

        if not found.points:
            raise UsageError(f"there is nothing to draw: {nearest_text(found)}", next_step=f"orchestrator sweep show {runs[0]}")
        write_file(plot, draw(found, form=form))
        shell.say(f"{len(found.points)} trials drawn to {plot}")
    if not shell.as_json and csv_file != "-":
        shell.data(trade_off_lines(found, style=shell.style, width=shell.width))
    if found.front:
        return 0
    shell.insist(f"{shell.err_style.paint('FAIL', 'FAIL')}  no trial meets the constraints. {nearest_text(found)}")
    return EXIT_UNMET


def _format(plot: str | None) -> str:
    from orchestrator.errors import UsageError

    form = "" if plot is None else plot.rpartition(".")[2].lower()
    if plot is not None and form not in ("png", "svg", "html"):
        raise UsageError(f'--plot "{plot}": expected a name that ends in .png, .svg or .html', next_step="--plot front.svg")
    return form
