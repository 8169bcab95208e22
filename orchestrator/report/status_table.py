"""A run as a table, whatever it is doing: made from its ledger alone, so it reads the same when nothing runs any more."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.report.found_sweeps import FoundSweep
from orchestrator.report.progress import Progress
from orchestrator.report.run_status import NodeStatus, RunStatus, again_command
from orchestrator.report.sweep_table import counts, sweep_document, sweep_lines
from orchestrator.report.text import (
    Column,
    Style,
    format_bytes,
    format_seconds,
    format_table,
    format_time,
    plural,
    printable,
    state_word,
)

LIVE_STATES = ("queued", "starting", "running")

_RUN_WORDS = {
    "queued": "WAIT",
    "starting": "RUN",
    "running": "RUN",
    "done": "DONE",
    "failed": "FAIL",
    "cancelled": "CANCEL",
    "interrupted": "CANCEL",
}


def run_word(state: str) -> str:
    """The status word of a whole run."""
    return _RUN_WORDS.get(state, "WAIT")


def counts_text(status: RunStatus) -> str:
    """8 hits, 2 done, 1 running, 3 waiting: only what there is."""
    cancelled = [node for node in status.nodes.values() if node.state == "cancelled"]
    stopped = sum(node.is_of_trial for node in cancelled) if status.state in (*LIVE_STATES, "done") else 0
    parts = [
        (status.count("hit"), "hit"), (status.count("done"), ""), (status.count("running"), "running"),
        (status.count("planned", "waiting", "retrying"), "waiting" if status.state in LIVE_STATES else "not started"),
        (status.count("failed"), "failed"), (status.count("blocked"), "blocked"), (status.count("skipped"), "skipped"),
        (len(cancelled) - stopped, "cancelled"), (stopped, "stopped early"), (status.count("interrupted"), "interrupted"),
    ]  # fmt: skip
    texts = [plural(number, "hit") if word == "hit" else f"{number} {word or 'done'}" for number, word in parts if number]
    return ", ".join(texts)


def node_word(node: NodeStatus, status: RunStatus) -> str:
    """The status word of a node; what a run that has ended never came to is SKIP, whatever it was waiting for."""
    if node.state == "done" and node.ending == "shared":
        return "SHARED"
    if node.state == "planned" and status.state not in LIVE_STATES:
        return "SKIP"
    return state_word(node.state)


def status_lines(
    status: RunStatus,
    *,
    progress: Mapping[str, Progress],
    style: Style,
    width: int | None,
    sweeps: Sequence[FoundSweep] = (),
    show_all: bool = False,
) -> list[str]:
    """One run: a line about the whole, a line for each node and sweep, and each sweep's trials.

    `show_all` adds the nodes of trials, which may be thousands, and the trace of every error.
    """
    lines = [headline(status, style=style)]
    found = {sweep.name: sweep for sweep in sweeps}
    rows: list[list[str]] = []
    told: set[str] = set()
    for node in status.nodes.values():
        name = node.node.partition(".")[0]
        if node.is_of_trial and name in found and name not in told:
            told.add(name)
            rows.append(_sweep_row(found[name]))
        if show_all or not node.is_of_trial:
            rows.append(_node_row(node, status, progress.get(node.label)))
    rows += [_sweep_row(sweep) for name, sweep in found.items() if name not in told]
    columns = [
        Column("STATUS", painted=True), Column("NODE"), Column("KEY"), Column("ATTEMPT", right=True),
        Column("TIME", right=True), Column("DETAIL"),
    ]  # fmt: skip
    lines += format_table(columns, rows, style=style, width=width, last_lines=3)
    for sweep in sweeps:
        more = f"orchestrator sweep show {status.id} {sweep.name} --all"
        lines += ["", *sweep_lines(sweep, style=style, width=width, more=more)]
    if status.error and not any(sweep.error and sweep.error in status.error for sweep in status.sweeps.values()):
        lines.append(f"{style.paint('error:', 'error')} {printable(status.error)}")
    if show_all:
        lines += [
            line for node in status.nodes.values() if node.trace for line in ["", f"{node.label}:", *node.trace.splitlines()]
        ]
    return [*lines, *_next_step(status)]


def _node_row(node: NodeStatus, status: RunStatus, progress: Progress | None) -> list[str]:
    took = format_seconds(node.seconds) if node.state == "done" else "-"
    detail = _detail(node, status, progress)
    return [node_word(node, status), node.label, node.key[:8], str(node.attempt or "-"), took, detail]


def _sweep_row(found: FoundSweep) -> list[str]:
    sweep = found.sweep
    word = "HIT" if found.was_settled_before else state_word(sweep.state)
    took = format_seconds(sweep.spent_s) if sweep.state == "settled" and not found.was_settled_before else "-"
    return [word, found.name, sweep.key[:8], "-", took, sweep.error if sweep.state == "blocked" else counts(sweep)]


def _next_step(status: RunStatus) -> list[str]:
    if status.state == "done":
        return []
    failed = [node for node in status.nodes.values() if node.state == "failed"]
    plain = next((node.label for node in failed if not node.is_of_trial), None)
    lost = next((name for name, sweep in status.sweeps.items() if sweep.state == "failed"), None)
    of_sweep = next((node.label for node in reversed(failed) if lost is not None and node.node.startswith(f"{lost}.")), None)
    if plain or of_sweep:
        return [f"next: orchestrator logs {status.id} {shlex.quote(plain or of_sweep or '')}"]
    if lost is not None:
        return [f"next: orchestrator sweep show {status.id} {lost}"]
    if status.state in ("cancelled", "interrupted"):
        return [f"next: {again_command(status)}    (goes on from there)"]
    return [f"next: orchestrator status {status.id} --watch"] if status.state in LIVE_STATES else []


def headline(status: RunStatus, *, style: Style) -> str:
    """One line about a run: run k7m2abcd  digits  done after 3m05s: 8 hits, 2 done."""
    when = f"after {format_seconds(status.seconds)}" if status.ended else f"since {format_time(status.created)} UTC"
    state = style.paint(status.state, run_word(status.state))
    return f"run {style.paint(status.id, 'bold')}  {status.workflow}  {state} {when}: {counts_text(status) or 'no nodes'}"


def runs_lines(runs: Iterable[RunStatus], *, style: Style, width: int | None) -> list[str]:
    """Several runs, one line each; where they are of several users, with these."""
    runs = list(runs)
    users = [run.request.get("user", "") for run in runs]
    has_several = len(set(users)) > 1
    rows = [
        [
            run_word(run.state),
            run.id,
            format_time(run.created),
            format_seconds(run.seconds) if run.ended else "-",
            *([user or "-"] if has_several else []),
            run.workflow,
            f"{counts_text(run)}{_tags(run)}",
        ]
        for run, user in zip(runs, users, strict=True)
    ]
    columns = [
        Column("STATUS", painted=True), Column("RUN"), Column("BEGAN (UTC)"), Column("TIME", right=True),
        *([Column("USER")] if has_several else []), Column("WORKFLOW"), Column("NODES"),
    ]  # fmt: skip
    return format_table(columns, rows, style=style, width=width)


def status_document(
    status: RunStatus, progress: Mapping[str, Progress], *, sweeps: Sequence[FoundSweep] = (), with_text: bool = False
) -> dict[str, Any]:
    """A run as data; `with_text` adds the workflow file as it was."""
    content = {name: value for name, value in vars(status).items() if name not in ("nodes", "sweeps", "offset", "request")}
    nodes = []
    for node in status.nodes.values():
        found = progress.get(node.label)
        nodes.append({**asdict(node), "progress": {**vars(found), "eta_s": found.seconds_left} if found else None})
    request = {name: value for name, value in status.request.items() if name != "plan" and (with_text or name != "text")}
    return {"run": {**content, "request": request, "nodes": nodes, "sweeps": [sweep_document(sweep) for sweep in sweeps]}}


def _detail(node: NodeStatus, status: RunStatus, progress: Progress | None) -> str:
    if node.state == "running" and progress is not None:
        return progress_text(progress)
    if node.error and node.state in ("failed", "retrying"):
        return printable("; ".join([node.error.strip().splitlines()[0], *filter(None, [node.note])]))
    if node.note:
        return node.note
    if node.state == "interrupted":
        return "its run ended before it did; what it had saved is kept"
    if node.state == "planned" and status.state not in LIVE_STATES:
        return "not started"
    if node.state == "done" and node.size_bytes:
        return format_bytes(node.size_bytes)
    return ""


def progress_text(progress: Progress) -> str:
    """As in: step 420/6000 (7%), loss 0.41, 3m10s left."""
    gpu = f"GPU {format_bytes(progress.gpu_bytes)}" if progress.gpu_bytes else ""
    parts = [f"step {progress.step}/{progress.total} ({progress.fraction:.0%})", progress.metric, gpu]
    if progress.seconds_left is not None:
        parts.append(f"{format_seconds(progress.seconds_left)} left")
    return ", ".join(part for part in parts if part)


def _tags(run: RunStatus) -> str:
    tags = run.request.get("tags") or {}
    return "".join(f"  {name}={value}" for name, value in tags.items())
