"""What went wrong in a run: every failed attempt with its error, the place of it, and the end of what the attempt printed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from orchestrator.report.page.attempts import Attempt
from orchestrator.report.page.sources import Sources
from orchestrator.report.run_lines import TAIL_LINES

MAX_FAILURES = 50
MAX_LINE = 400
_PLACE = re.compile(r'File "([^"]+)", line ([0-9]+)')


def failures_document(sources: Sources, attempts: Sequence[Attempt]) -> dict[str, Any]:
    """The failed attempts, those that failed their node before those that were tried again, and how many were left out."""
    status = sources.status
    failed = [attempt for attempt in attempts if attempt.state == "failed"]
    never = [node for node in status.nodes.values() if node.state == "failed" and node.attempt == 0]
    failed.sort(key=lambda attempt: (attempt.will_retry, attempt.began_s))
    documents = [_attempt_document(sources, attempt) for attempt in failed[:MAX_FAILURES]]
    documents += [
        {"label": node.label, "attempt": 0, "error": node.error, "error_type": node.error_type, "place": "", "log": [],
         "log_lines": 0, "will_retry": False, "ending": node.ending, "class": "", "host": "", "command": ""}
        for node in never[: MAX_FAILURES - len(documents)]
    ]  # fmt: skip
    sweeps = [
        {"sweep": sweep.name, "state": sweep.state, "error": sweep.error}
        for sweep in status.sweeps.values()
        if sweep.state in ("failed", "blocked")
    ]
    return {
        "run_error": status.error,
        "attempts": documents,
        "left_out": len(failed) + len(never) - len(documents),
        "sweeps": sweeps,
        "blocked": [node.label for node in status.nodes.values() if node.state == "blocked"],
    }


def _attempt_document(sources: Sources, attempt: Attempt) -> dict[str, Any]:
    node = sources.status.nodes.get(attempt.label)
    log: list[str] = []
    if node is not None:
        log = sources.ledger.read_log(sources.status.id, node.folder, attempt.number).decode("utf-8", "replace").splitlines()
    places = _PLACE.findall(attempt.trace)
    return {
        "label": attempt.label,
        "attempt": attempt.number,
        "ending": attempt.ending,
        "class": attempt.failure_class,
        "error": attempt.error,
        "error_type": attempt.error_type,
        "place": f"{places[-1][0]}:{places[-1][1]}" if places else "",
        "will_retry": attempt.will_retry,
        "host": attempt.host,
        "log": [line.expandtabs(4)[:MAX_LINE] for line in log[-TAIL_LINES:]],
        "log_lines": len(log),
        "command": f"orchestrator logs {sources.status.id} {shlex.quote(attempt.label)} --attempt {attempt.number}",
    }
