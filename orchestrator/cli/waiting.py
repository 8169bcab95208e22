"""`wait` and `events`: a run of another process, for scripts: when it ends, and all that happens in it."""

from __future__ import annotations

import time

import click

from orchestrator.cli.completing import complete_runs
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell

LOOK_EVERY_S = 0.4
EXIT_TIMEOUT = 124


@command("wait", example="orchestrator wait @last --timeout 2h")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, shell_complete=complete_runs)
@click.option("--timeout", metavar="DURATION", help="Give up after so long, with exit code 124: 90s, 2h.")
@pass_shell
def wait(shell: Shell, runs: tuple[str, ...], timeout: str | None) -> int:
    """Wait until runs have ended; the exit code is that of the run.

    Of several, the first that is not 0, in the order in which they are named.
    """
    from orchestrator import api
    from orchestrator.cli.durations import parse_duration
    from orchestrator.cli.following import ended_code
    from orchestrator.report.run_lines import end_line
    from orchestrator.report.run_status import FINAL_STATES, read_run_status

    workspace = shell.workspace
    deadline_s = time.monotonic() + parse_duration("--timeout", timeout) if timeout is not None else float("inf")
    names = list(dict.fromkeys(api.status(run, workspace=workspace).id for run in runs))
    codes: dict[str, int] = {}
    documents = []
    shell.stay()
    for name in names:
        found = read_run_status(workspace.store, name)
        while found.state not in FINAL_STATES:
            if time.monotonic() > deadline_s:
                codes[name] = EXIT_TIMEOUT
                break
            time.sleep(LOOK_EVERY_S)
            found = read_run_status(workspace.store, name)
        else:
            codes[name] = ended_code(found, workspace)
            shell.say(end_line(found, style=shell.err_style))
        documents.append({"run": name, "state": found.state, "exit_code": codes[name]})
    late = [name for name, code in codes.items() if code == EXIT_TIMEOUT]
    code = EXIT_TIMEOUT if late else next((code for code in codes.values() if code), 0)
    if shell.as_json:
        shell.document({"runs": documents, "exit_code": code})
    if late:
        shell.say(f"still running after {timeout}: {', '.join(late)}. next: orchestrator status {late[0]} --watch")
    return code


@command("events", example="orchestrator events @last -f --type node_done")
@click.argument("run", shell_complete=complete_runs)
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on until the run ends.")
@click.option("--type", "types", metavar="TYPE", multiple=True, help="Only events of this type; repeatable.")
@pass_shell
def events(shell: Shell, run: str, follows: bool, types: tuple[str, ...]) -> int:
    """Show all that happened in a run, as JSON Lines: one typed event a line.

    Each has schema, run, time and type; docs/formats.md names the types.
    """
    from orchestrator import api
    from orchestrator.errors import UsageError
    from orchestrator.report.event_types import EVENT_TYPES
    from orchestrator.report.run_status import FINAL_STATES, read_run_status

    unknown = [each for each in types if each not in EVENT_TYPES]
    if unknown:
        raise UsageError(
            f'--type "{unknown[0]}" is no type of event; there are {", ".join(EVENT_TYPES)}',
            next_step=f"orchestrator events {run} --type node_done",
        )
    workspace = shell.workspace
    status = api.status(run, workspace=workspace)
    offset = 0
    if follows:
        shell.stay()
    while not shell.reader_is_gone:
        is_last_look = not follows or status.state in FINAL_STATES
        found, offset = workspace.ledger.events(status.id, offset=offset)
        for event in found:
            if not types or event.get("type") in types:
                shell.json_line({"run": status.id, **event})
        if is_last_look:
            break
        time.sleep(LOOK_EVERY_S)
        status = read_run_status(workspace.store, status.id)
    return 0
