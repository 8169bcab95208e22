"""`sweep show` and `sweep stop`: the trials of a search, and asking it to propose no more."""

from __future__ import annotations

import click

from orchestrator.cli.completing import complete_runs, complete_sweeps
from orchestrator.cli.group import CONTEXT, LazyGroup, Verb, command, pass_shell
from orchestrator.cli.shell import Shell
from orchestrator.errors import UsageError

sweep = LazyGroup(
    "sweep",
    help="Show the trials of a sweep; stop its search.",
    context_settings=CONTEXT,
    verbs={
        "show": Verb("orchestrator.cli.sweep:show_sweep", "Show the trials of a run's sweeps, by state."),
        "stop": Verb("orchestrator.cli.sweep:stop_sweep", "Propose no more trials; let the running ones end."),
    },
    example="orchestrator sweep show @last",
)


@command("show", example="orchestrator sweep show @last search --all")
@click.argument("run", required=False, default="@last", shell_complete=complete_runs)
@click.argument("name", metavar="[SWEEP]", required=False, shell_complete=complete_sweeps)
@click.option("--all", "shows_all", is_flag=True, help="Every trial, not only the leading 20.")
@click.option("--csv", "csv_file", metavar="FILE", help='Every trial with all its metrics as CSV ("-": stdout).')
@pass_shell
def show_sweep(shell: Shell, run: str, name: str | None, shows_all: bool, csv_file: str | None) -> int:
    """Show the trials of a run's sweeps (default: @last), or of one SWEEP.

    What runs stands first, then the best and the front, then trials beyond a
    constraint, stopped, failed and struck out.
    """
    from orchestrator import api
    from orchestrator.report.found_sweeps import found_sweeps, pick_sweeps
    from orchestrator.report.reports_reached import reports_reached
    from orchestrator.report.sweep_table import MAX_ROWS, ordered, sweep_document, sweep_lines

    workspace = shell.workspace
    status = api.status(run, workspace=workspace)
    sweeps = pick_sweeps(found_sweeps(status, workspace.artifacts), status, name)
    reached = {found.name: reports_reached(found, status, workspace.ledger) for found in sweeps}
    if shell.as_json:
        documents = [sweep_document(found, reports=reached[found.name]) for found in sweeps]
        shell.document({"run": status.id, "sweeps": documents})
    if csv_file is not None:
        from orchestrator.cli.files import write_out
        from orchestrator.report.trial_export import csv_text

        if shell.as_json and csv_file == "-":
            raise UsageError("--json and --csv - both want stdout", next_step="--csv trials.csv")
        rows = [(found, trial) for found in sweeps for trial in ordered(found)]
        write_out(shell, csv_file, csv_text(rows), what=f"{len(rows)} trials")
    if shell.as_json or csv_file is not None:
        return 0
    for number, found in enumerate(sweeps):
        more = f"orchestrator sweep show {status.id} {found.name} --all"
        lines = sweep_lines(
            found, style=shell.style, width=shell.width, max_rows=None if shows_all else MAX_ROWS, more=more,
            reports=reached[found.name],
        )  # fmt: skip
        shell.data([*([""] if number else []), *lines])
        failed = [trial for trial in found.trials if trial.state == "failed"]
        if failed:
            shell.say(f"next: orchestrator logs {status.id} {found.label(failed[-1].number)}")
        elif found.is_settled:
            shell.say(f"next: orchestrator best {status.id}")
    return 0


@command("stop", example="orchestrator sweep stop @last search")
@click.argument("run", shell_complete=complete_runs)
@click.argument("name", metavar="[SWEEP]", required=False, shell_complete=complete_sweeps)
@pass_shell
def stop_sweep(shell: Shell, run: str, name: str | None) -> int:
    """Ask a search to propose no more trials; those that run end, and it settles.

    The run goes on with what needs the sweep. To stop the run itself: cancel.
    """
    from orchestrator import api
    from orchestrator.report.found_sweeps import sweeps_of_request
    from orchestrator.report.run_status import FINAL_STATES
    from orchestrator.report.text import plural

    ledger = shell.workspace.ledger
    status = api.status(run, workspace=shell.workspace)
    if status.state in FINAL_STATES:
        raise UsageError(
            f"run {status.id} is not running: it is {status.state}, so nothing is searched in it",
            next_step=f"orchestrator sweep show {status.id}",
        )
    names = sweeps_of_request(status, name)
    answers = []
    for each in names:
        found = status.sweeps.get(each)
        state = found.state if found is not None else "waiting"
        asks = state in ("searching", "waiting")
        if asks:
            ledger.ask_to_stop_sweep(status.id, each)
        answers.append({"sweep": each, "state": state, "asked": asks})
        running = found.count("running") if found is not None else 0
        if not asks:
            shell.say(f"sweep {each} of run {status.id} is not searching: it is {state}")
        elif state == "waiting":
            shell.say(f"sweep {each} of run {status.id} has not begun; it will try no trial and settle on what is known")
        else:
            shell.say(
                f"asked sweep {each} of run {status.id} to propose no more; it settles when {plural(running, 'trial')} ended"
            )
    if shell.as_json:
        shell.document({"run": status.id, "sweeps": answers})
    elif any(answer["asked"] for answer in answers):
        shell.say(f"next: orchestrator status {status.id} --watch")
    return 0
