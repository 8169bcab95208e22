"""The attempts of a run from its events: which node, when, in which process, how it ended. What the timeline is drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

_ENDS = {
    "node_done": "done",
    "attempt_failed": "failed",
    "node_failed": "failed",
    "node_cancelled": "cancelled",
    "attempt_stopped": "cancelled",
    "node_waiting": "waiting",
}


@dataclass
class Attempt:
    """One attempt at a node, in seconds since the run began. `state` is done, shared, failed, cancelled, waiting or running.

    `host` and `process_id` are empty and 0 where the ledger does not say: for attempts that never came back.
    """

    label: str
    key: str
    number: int
    began_s: float
    ended_s: float
    state: str = "running"
    host: str = ""
    process_id: int = 0
    error: str = ""
    error_type: str = ""
    trace: str = ""
    ending: str = ""
    failure_class: str = ""
    will_retry: bool = False

    @property
    def seconds(self) -> float:
        return max(0.0, self.ended_s - self.began_s)


@dataclass(frozen=True)
class Lane:
    """One worker of the timeline, with its attempts in their order."""

    name: str
    attempts: Sequence[Attempt]

    @property
    def busy_s(self) -> float:
        return sum(attempt.seconds for attempt in self.attempts)


def run_attempts(events: Iterable[Mapping[str, Any]], *, now: str, is_live: bool) -> list[Attempt]:
    """Every attempt in the order of their beginning. What has not ended lasts until `now`, or until the run's last event."""
    began: float | None = None
    last_s = 0.0
    found: list[Attempt] = []
    running: dict[str, Attempt] = {}
    for event in events:
        at = _seconds(event.get("time", ""))
        if at is None:
            continue
        began = at if began is None else began
        last_s = at - began
        kind, label = event["type"], event.get("node", "")
        if kind == "node_started":
            running[label] = Attempt(label, event.get("key", ""), event["attempt"], last_s, last_s)
            found.append(running[label])
        elif kind in _ENDS and label in running:
            attempt = running.pop(label)
            attempt.ended_s, attempt.ending = last_s, event.get("ending", "")
            attempt.state = "shared" if event.get("ending") == "shared" else _ENDS[kind]
            attempt.host, attempt.process_id = event.get("host", ""), event.get("process_id", 0)
            attempt.error, attempt.error_type = event.get("error", ""), event.get("error_type", "")
            attempt.trace, attempt.will_retry = event.get("trace", ""), event.get("will_retry", False)
            attempt.failure_class = event.get("class", "")
    now_s = _seconds(now)
    for attempt in running.values():
        attempt.state = "running" if is_live else "cancelled"
        attempt.ended_s = now_s - began if is_live and now_s is not None and began is not None else last_s
    return found


def lanes(attempts: Iterable[Attempt]) -> list[Lane]:
    """Attempts by worker: its host and process; those of unknown processes share lanes in which nothing overlaps."""
    by_worker: dict[tuple[str, int], list[Attempt]] = {}
    for attempt in attempts:
        by_worker.setdefault((attempt.host, attempt.process_id), []).append(attempt)
    found: list[Lane] = []
    for (host, process), members in sorted(by_worker.items(), key=lambda item: (not item[0][1], item[1][0].began_s)):
        name = f"{host}, process {process}" if process else host or "worker not known"
        packed = _packed(members)
        numbered = len(packed) > 1
        found += [Lane(f"{name} ({index + 1})" if numbered else name, lane) for index, lane in enumerate(packed)]
    return found


def _packed(attempts: Iterable[Attempt]) -> list[list[Attempt]]:
    """As few rows as hold them without overlap."""
    rows: list[list[Attempt]] = []
    for attempt in sorted(attempts, key=lambda attempt: attempt.began_s):
        row = next((row for row in rows if row[-1].ended_s <= attempt.began_s), None)
        if row is None:
            rows.append([attempt])
        else:
            row.append(attempt)
    return rows


def _seconds(stamp: str) -> float | None:
    try:
        return datetime.fromisoformat(stamp).timestamp()
    except ValueError:
        return None
