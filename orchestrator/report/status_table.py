"""A run as a table, whatever it is doing: made from its ledger alone, so it reads the same when nothing runs any more."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from orchestrator.report.progress import Progress
from orchestrator.report.run_status import NodeStatus, RunStatus, submit_command
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

LIVE_STATES = ("starting", "running")

_RUN_WORDS = {
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
    parts = [
        (status.count("hit"), "hit"), (status.count("done"), ""), (status.count("running"), "running"),
        (status.count("planned", "waiting", "retrying"), "waiting" if status.state in LIVE_STATES else "not started"),
        (status.count("failed"), "failed"), (status.count("blocked"), "blocked"), (status.count("skipped"), "skipped"),
        (status.count("cancelled"), "cancelled"), (status.count("interrupted"), "interrupted"),
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
    status: RunStatus, *, progress: Mapping[str, Progress], style: Style, width: int | None, show_trace: bool = False
) -> list[str]:
    """One run: a line about the whole, a line for each node."""
    lines = [headline(status, style=style)]
    rows = [
        [
            node_word(node, status),
            node.label,
            node.key[:8],
            str(node.attempt or "-"),
            format_seconds(node.seconds) if node.state == "done" else "-",
            _detail(node, status, progress.get(node.label)),
        ]
        for node in status.nodes.values()
    ]
    columns = [
        Column("STATUS", painted=True), Column("NODE"), Column("KEY"), Column("ATTEMPT", right=True),
        Column("TIME", right=True), Column("DETAIL"),
    ]  # fmt: skip
    lines += format_table(columns, rows, style=style, width=width, last_lines=3)
    if status.error:
        lines.append(f"{style.paint('error:', 'error')} {status.error}")
    if show_trace:
        lines += [
            line for node in status.nodes.values() if node.trace for line in ["", f"{node.label}:", *node.trace.splitlines()]
        ]
    return [*lines, *_next_step(status)]


def _next_step(status: RunStatus) -> list[str]:
    failed = next((node for node in status.nodes.values() if node.state == "failed"), None)
    if failed is not None:
        return [f"next: orchestrator logs {status.id} {shlex.quote(failed.label)}"]
    if status.state in ("cancelled", "interrupted"):
        return [f"next: {submit_command(status.request)}    (goes on from there)"]
    return [f"next: orchestrator status {status.id} --watch"] if status.state in LIVE_STATES else []


def headline(status: RunStatus, *, style: Style) -> str:
    """One line about a run: run k7m2abcd  digits  done after 3m05s: 8 hits, 2 done."""
    when = f"after {format_seconds(status.seconds)}" if status.ended else f"since {format_time(status.created)} UTC"
    state = style.paint(status.state, run_word(status.state))
    return f"run {style.paint(status.id, 'bold')}  {status.workflow}  {state} {when}: {counts_text(status) or 'no nodes'}"


def runs_lines(runs: Iterable[RunStatus], *, style: Style, width: int | None) -> list[str]:
    """Several runs, one line each."""
    rows = [
        [
            run_word(run.state),
            run.id,
            format_time(run.created),
            format_seconds(run.seconds) if run.ended else "-",
            run.workflow,
            f"{counts_text(run)}{_tags(run)}",
        ]
        for run in runs
    ]
    columns = [
        Column("STATUS", painted=True), Column("RUN"), Column("BEGAN (UTC)"), Column("TIME", right=True), Column("WORKFLOW"),
        Column("NODES"),
    ]  # fmt: skip
    return format_table(columns, rows, style=style, width=width)


def status_document(status: RunStatus, progress: Mapping[str, Progress], *, with_text: bool = False) -> dict[str, Any]:
    """A run as data; `with_text` adds the workflow file as it was."""
    content = {name: value for name, value in vars(status).items() if name not in ("nodes", "offset", "request")}
    nodes = []
    for node in status.nodes.values():
        found = progress.get(node.label)
        nodes.append({**asdict(node), "progress": {**vars(found), "eta_s": found.seconds_left} if found else None})
    request = {name: value for name, value in status.request.items() if name != "plan" and (with_text or name != "text")}
    return {"run": {**content, "request": request, "nodes": nodes}}


def _detail(node: NodeStatus, status: RunStatus, progress: Progress | None) -> str:
    if node.state == "running" and progress is not None:
        return progress_text(progress)
    if node.error and node.state in ("failed", "retrying"):
        return printable(node.error.strip().splitlines()[0])
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
    parts = [f"step {progress.step}/{progress.total} ({progress.fraction:.0%})", progress.metric]
    if progress.seconds_left is not None:
        parts.append(f"{format_seconds(progress.seconds_left)} left")
    return ", ".join(part for part in parts if part)


def _tags(run: RunStatus) -> str:
    tags = run.request.get("tags") or {}
    return "".join(f"  {name}={value}" for name, value in tags.items())
