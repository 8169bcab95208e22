"""`logs`: what the stages of a run printed, of any run there ever was."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Sequence

import click

from orchestrator.cli.completing import complete_nodes, complete_runs
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell
from orchestrator.report.log_times import Starts, log_starts
from orchestrator.report.run_status import NodeStatus, RunStatus
from orchestrator.report.text import printable

LOOK_EVERY_S = 0.4


@command("logs", example="orchestrator logs @last lbc --tail 50")
@click.argument("run", shell_complete=complete_runs)
@click.argument("node", required=False, shell_complete=complete_nodes)
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on until the run ends.")
@click.option("--attempt", metavar="N", type=click.IntRange(min=1), help="This attempt instead of the last.")
@click.option("--tail", metavar="N", type=click.IntRange(min=0), help="Only the last N lines of each log.")
@click.option("--since", metavar="DURATION", help="Only what was printed within so long: 90s, 2h.")
@pass_shell
def logs(
    shell: Shell, run: str, node: str | None, follows: bool, attempt: int | None, tail: int | None, since: str | None
) -> int:
    """Show what stages printed. NODE: a label, or a name for all its instances.

    Of a sweep's trial: search/t0007 for all its nodes, search/t0007/tune for one.
    Lines carry no time of their own: --since goes by the progress that the stage
    reported beside them, and shows rather too much than too little.
    """
    from orchestrator import api
    from orchestrator.cli.naming import nodes_of_run
    from orchestrator.errors import UsageError

    status = api.status(run, workspace=shell.workspace)
    nodes = nodes_of_run(status, node) if node is not None else list(status.nodes.values())
    attempts = {entry.label: shell.workspace.ledger.log_attempts(status.id, entry.folder) for entry in nodes}
    if attempt is not None and not any(attempt in known for known in attempts.values()):
        known = sorted({number for numbers in attempts.values() for number in numbers})
        logs_of = f"there are logs of {', '.join(map(str, known))}"
        there = logs_of if known else _nothing(shell, nodes, ()).partition(". next")[0]
        raise UsageError(f"no log of attempt {attempt}; {there}", next_step=f"orchestrator status {status.id}")
    starts = _starts(shell, status, nodes, since) if since is not None else {}
    if follows:
        return _follow(shell, status, node, attempt=attempt, tail=tail, starts=starts)
    found = list(_logs(shell, status, nodes, attempt, starts))
    if shell.as_json:
        shell.document({
            "run": status.id,
            "logs": [
                {"node": entry.label, **_which(number, worker), "text": "\n".join(_last(text, tail))}
                for entry, number, worker, text in found
            ],
        })  # fmt: skip
        return 0
    for entry, number, worker, text in found:
        if not text and len(found) > 1:
            continue
        if len(found) > 1:
            shell.data([_heading(entry.label, number, worker)])
        shell.data(_last(text, tail))
    if not any(text for *_, text in found):
        shell.say(_nothing(shell, nodes, found) + (f" within {since}" if since is not None and found else ""))
    return 0


def _starts(shell: Shell, status: RunStatus, nodes: Sequence[NodeStatus], since: str) -> Starts:
    """By node and attempt, the byte of the log from which on it was printed within the duration."""
    from datetime import UTC, datetime, timedelta

    from orchestrator.cli.durations import parse_duration

    moment = datetime.now(UTC) - timedelta(seconds=parse_duration("--since", since))
    return log_starts(status, nodes, shell.workspace.ledger, moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"))


def _logs(
    shell: Shell,
    status: RunStatus,
    nodes: Sequence[NodeStatus],
    attempt: int | None,
    starts: Starts,
) -> Iterator[tuple[NodeStatus, int, int, str]]:
    ledger = shell.workspace.ledger
    for node in nodes:
        known = ledger.log_attempts(status.id, node.folder)
        number = attempt if attempt in known else known[-1] if known and attempt is None else None
        if number is not None:
            start = starts.get((node.label, number), 0)
            for worker in ledger.log_workers(status.id, node.folder, number):
                offset = start if worker == 0 else start and 0  # the ledger knows when the first one printed what
                found = b"" if offset is None else ledger.read_log(status.id, node.folder, number, worker=worker, offset=offset)
                yield node, number, worker, found.decode("utf-8", "replace")


def _which(attempt: int, worker: int) -> dict[str, int]:
    return {"attempt": attempt, "worker": worker} if worker else {"attempt": attempt}


def _heading(label: str, attempt: int, worker: int) -> str:
    return f"==> {label}, {', '.join(f'{word} {number}' for word, number in _which(attempt, worker).items())} <=="


def _last(text: str, tail: int | None) -> list[str]:
    lines = [printable(line.expandtabs(4)) for line in text.splitlines()]
    return lines if tail is None else lines[len(lines) - tail :] if tail < len(lines) else lines


def _nothing(shell: Shell, nodes: Sequence[NodeStatus], found: Sequence[object]) -> str:
    """Why there is nothing to show; of hits, where the log is of the run that made one."""
    if found:
        return "nothing was printed"
    if not all(node.state == "hit" for node in nodes):
        return "nothing has run yet"
    record = shell.workspace.artifacts.find(nodes[-1].stage, nodes[-1].key) if nodes else None
    made = f". next: orchestrator logs {record.run} {shlex.quote(record.label)}" if record is not None else ""
    which = "it was" if len(nodes) == 1 else "every node was"
    return f"nothing ran here: {which} finished before{made}"


def _follow(
    shell: Shell,
    status: RunStatus,
    node_name: str | None,
    *,
    attempt: int | None,
    tail: int | None,
    starts: Starts,
) -> int:
    """Print what is added to any of the logs until the run ends, naming the node whenever it changes.

    The nodes are looked up at every turn: a search adds some while the run goes on.
    """
    from orchestrator.cli.naming import nodes_of_run
    from orchestrator.report.run_status import FINAL_STATES, read_run_status

    shell.stay()
    ledger = shell.workspace.ledger
    offsets = {(*place, 0): start for place, start in starts.items() if start}
    seen: set[tuple[str, int, int]] = set()
    shown: tuple[str, int, int] | None = None
    while not shell.reader_is_gone:
        is_last_look = status.state in FINAL_STATES
        nodes = nodes_of_run(status, node_name) if node_name is not None else list(status.nodes.values())
        for node in nodes:
            if not node.attempt:
                continue
            for number, worker in ledger.logs(status.id, node.folder):
                place = (node.label, number, worker)
                if attempt not in (None, number) or starts.get(place[:2], 0) is None:
                    continue
                data = ledger.read_log(status.id, node.folder, number, worker=worker, offset=offsets.get(place, 0))
                whole = data if is_last_look else data[: data.rfind(b"\n") + 1]
                text = whole.decode("utf-8", "replace")
                lines = _last(text, tail if place not in seen else None)
                seen.add(place)
                offsets[place] = offsets.get(place, 0) + len(whole)
                if not lines:
                    continue
                if shell.as_json:
                    shell.json_line({"run": status.id, "node": node.label, **_which(number, worker), "text": "\n".join(lines)})
                    continue
                if (len(nodes) > 1 or worker or (shown and shown[2])) and shown != place:
                    shell.data([_heading(node.label, number, worker)])
                shown = place
                shell.data(lines)
        if is_last_look:
            break
        time.sleep(LOOK_EVERY_S)
        status = read_run_status(shell.workspace.store, status.id)
    return 0
