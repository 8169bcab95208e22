"""When the lines of a log were printed, as far as the ledger knows it: beside each progress report it has the log's length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from orchestrator.report.run_status import NodeStatus, RunStatus
from orchestrator.store.ledger import Ledger

Starts = Mapping[tuple[str, int], int | None]
"""By label and attempt: from which byte on a log is meant; None for nothing of it. What is not named is meant as a whole."""


def log_starts(status: RunStatus, nodes: Iterable[NodeStatus], ledger: Ledger, moment: str) -> Starts:
    """Where what was printed after `moment` (ISO 8601, UTC) begins in each log that there is.

    Nothing of what ended before the moment; of what was running then all since the last progress report before it.
    """
    ended: dict[tuple[str, int], str] = {}
    for event in ledger.events(status.id)[0]:
        if event["type"] == "node_started":
            ended.pop((event["node"], event["attempt"]), None)  # the number of one that does not count is given again
        elif event["type"] in ("attempt_failed", "attempt_stopped", "node_failed"):
            ended[event["node"], event["attempt"]] = event["time"]
    starts: dict[tuple[str, int], int | None] = {}
    for node in nodes:
        for attempt in ledger.log_attempts(status.id, node.folder):
            end = ended.get((node.label, attempt)) or (node.ended if attempt == node.attempt else "") or status.ended
            starts[node.label, attempt] = 0 if not end or end >= moment else None
        for line in ledger.progress(status.id, node.folder)[0]:
            place = (node.label, line["attempt"])
            if line["time"] < moment and starts.get(place) is not None:
                starts[place] = line.get("log_bytes", 0)
    return starts
