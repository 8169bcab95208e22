"""The ledger: what every run was asked, and what happened, append-only. The truth about a run, read by all that shows one.

runs/<id>/run.json                    the request: workflow text, overrides, plan; created once
runs/<id>/events.jsonl                what happened, one JSON object a line
runs/<id>/nodes/<node>/progress.jsonl steps and metrics of a running stage
runs/<id>/nodes/<node>/attempt-N.log  what the stage printed; attempt-N-worker-W.log: one of several workers, from the second on
runs/<id>/cancel                      someone asked the run to stop, within so many seconds
runs/<id>/cancel-some                 someone asked some of its nodes or trials to stop
runs/<id>/stop-<sweep>                someone asked a search to propose no more trials
submissions/<digest>                  the run that was begun with an idempotency key, and what it was asked
runs/<id>/notice-<name>               someone is told, or has been: the first who creates it tells
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.store.base import Store
from orchestrator.store.parallel import in_parallel

_TAIL_LINES, _TAIL_BYTES = 10, 4096
_LOG_NAME = re.compile(r"attempt-(\d+)(?:-worker-(\d+))?\.log")
_ID_ALPHABET = "23456789abcdefghjkmnpqrstuvwxyz"  # nothing that reads like something else


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What a run was asked to do, as written when it began."""

    id: str
    created: str
    content: Mapping[str, Any]


class Ledger:
    """Runs and their events in one store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def begin(self, content: Mapping[str, Any], *, claim: Callable[[str], object] = lambda _run: None) -> str:
        """Record a new run and return its id: eight letters and digits, to be selected with a double click.

        `claim` is called with the id before the run can be seen, so that nobody finds it without a living owner.
        """
        while True:
            run = "".join(secrets.choice(_ID_ALPHABET) for _ in range(8))
            claim(run)
            data = json.dumps({"id": run, "created": now_text(), **content}).encode()
            if self.store.create(f"runs/{run}/run.json", data, durable=False) is not None:
                return run

    def write(self, run: str, events: Iterable[Mapping[str, Any]]) -> None:
        """Append events, each stamped with the present time."""
        stamp = now_text()
        lines = "".join(json.dumps({"time": stamp, **event}) + "\n" for event in events)
        if lines:
            self.store.append(f"runs/{run}/events.jsonl", lines.encode())

    def events(self, run: str, *, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Events from byte `offset` on, and the offset after them; a line that is still being written waits."""
        return _whole_lines(self.store.read_log(f"runs/{run}/events.jsonl", offset=offset), offset)

    def request(self, run: str) -> RunRequest:
        """The run's request; UsageError if there is no such run."""
        found = self._find_request(run)
        if found is None:
            raise UsageError(f'no run "{run}" in {self.store.url}', next_step="orchestrator ls")
        return found

    def runs(self) -> list[RunRequest]:
        """All runs, newest first. One whose request a loss of power has damaged is left out."""
        asked = in_parallel(self._find_request, self.store.list("runs"), width=self.store.width)
        found = [request for request in asked if request is not None]
        return sorted(found, key=lambda request: (request.created, request.id), reverse=True)

    def resolve(self, name: str) -> str:
        """The id that `name` means: a unique prefix, `@last` or `@last-failed`; UsageError lists what it could be."""
        if name.startswith("@"):
            return self._resolve_relative(name)
        found = [run for run in self.store.list("runs") if run.startswith(name)] if name else []
        if len(found) == 1:
            return found[0]
        if name in found:
            return name
        which = f"means several runs: {', '.join(sorted(found)[:6])}" if found else f"is no run in {self.store.url}"
        raise UsageError(f'"{name}" {which}', next_step="orchestrator ls")

    def ask_to_cancel(self, run: str, *, grace_s: float | None = None) -> None:
        """Leave the mark that makes whoever drives the run stop it; what runs after `grace_s` seconds more is killed.

        Asked again, the new grace counts.
        """
        self._mark(f"runs/{run}/cancel", lambda _before: {"grace_s": grace_s})

    def is_cancel_asked(self, run: str) -> bool:
        """Whether someone asked the run to stop."""
        return self.store.read(f"runs/{run}/cancel") is not None

    def grace_asked_s(self, run: str) -> float | None:
        """Seconds that whoever asked the run to stop leaves its stages; None where nothing was said of it."""
        entry = self.store.read(f"runs/{run}/cancel")
        grace_s = json.loads(entry.data).get("grace_s") if entry is not None and entry.data else None
        return float(grace_s) if grace_s is not None else None

    def ask_to_cancel_some(self, run: str, names: Iterable[str]) -> None:
        """Ask nodes (their labels) and trials ("search/t0007") of a run to stop, while the rest goes on."""
        wanted = list(names)
        self._mark(
            f"runs/{run}/cancel-some", lambda before: {"names": list(dict.fromkeys([*before.get("names", ()), *wanted]))}
        )

    def cancels_asked(self, run: str) -> tuple[str, ...]:
        """The nodes and trials that were asked to stop."""
        entry = self.store.read(f"runs/{run}/cancel-some")
        return tuple(json.loads(entry.data)["names"]) if entry is not None else ()

    def _mark(self, path: str, make: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Leave a mark, or change the one that is there."""
        while True:
            entry = self.store.read(path)
            before = json.loads(entry.data) if entry is not None and entry.data else {}
            data = json.dumps(make(before)).encode()
            if entry is None:
                if self.store.create(path, data, durable=False) is not None:
                    return
            elif self.store.replace(path, data, version=entry.version) is not None:
                return

    def ask_to_stop_sweep(self, run: str, sweep: str) -> None:
        """Leave the mark that makes a search propose no more trials; those that run end, and the sweep settles."""
        self.store.create(f"runs/{run}/stop-{sweep}", b"", durable=False)

    def is_sweep_stop_asked(self, run: str, sweep: str) -> bool:
        """Whether someone asked the search to propose no more."""
        return self.store.read(f"runs/{run}/stop-{sweep}") is not None

    def claim_submission(self, digest: str, run: str, *, asked: str) -> tuple[str, str]:
        """Take an idempotency key (its digest) for a run; returns the run that has it, and what that was asked.

        The mark of a run that was never recorded, its process having died between, is taken over.
        """
        path = f"submissions/{digest}"
        data = json.dumps({"run": run, "asked": asked}).encode()
        while self.store.create(path, data) is None:
            entry = self.store.read(path)
            if entry is None:
                continue
            standing = json.loads(entry.data)
            is_recorded = self._find_request(standing["run"]) is not None
            if is_recorded or self.store.read(f"leases/run-{standing['run']}") is not None:
                return standing["run"], standing["asked"]
            if self.store.replace(path, data, version=entry.version) is not None:
                break
        return run, asked

    def claim_notice(self, run: str, name: str) -> bool:
        """Take it on to tell of something; False where that was done before, or is being done."""
        return self.store.create(f"runs/{run}/notice-{name}", json.dumps({"time": now_text()}).encode()) is not None

    def settle_notice(self, run: str, name: str, *, how: str, error: str) -> None:
        """Note how a notice went that was taken on."""
        path = f"runs/{run}/notice-{name}"
        entry = self.store.read(path)
        if entry is not None:
            data = json.dumps({"time": now_text(), "how": how, "error": error}).encode()
            self.store.replace(path, data, version=entry.version)

    def notices(self, run: str) -> dict[str, dict[str, Any]]:
        """By name, what was told of a run: `time`, `how`, and `error` where it did not arrive."""
        names = sorted(name for name in self.store.list(f"runs/{run}") if name.startswith("notice-"))
        entries = ((name.removeprefix("notice-"), self.store.read(f"runs/{run}/{name}")) for name in names)
        return {name: json.loads(entry.data) for name, entry in entries if entry is not None}

    def write_progress(
        self,
        run: str,
        node: str,
        *,
        attempt: int,
        step: int,
        total: int,
        metrics: Mapping[str, float],
        epoch: int | None = None,
        log_bytes: int | None = None,
        gpu_bytes: int = 0,
    ) -> None:
        """Append one line of progress of a running node; one that ends an epoch carries its number.

        `log_bytes`: how much the attempt has printed by now, from which one tells when a line was printed. `gpu_bytes`: the
        most that its process has held of a GPU so far.
        """
        line = {"time": now_text(), "attempt": attempt, "step": step, "total": total, "metrics": _finite(metrics)}
        if log_bytes is not None:
            line["log_bytes"] = log_bytes
        if gpu_bytes:
            line["gpu_bytes"] = gpu_bytes
        if epoch is not None:
            line["epoch"] = epoch
        self.store.append(f"runs/{run}/nodes/{node}/progress.jsonl", json.dumps(line).encode() + b"\n")

    def progress(self, run: str, node: str, *, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """Progress of a node from byte `offset` on, and the offset after it."""
        return _whole_lines(self.store.read_log(f"runs/{run}/nodes/{node}/progress.jsonl", offset=offset), offset)

    def log_file(self, run: str, node: str, attempt: int, *, worker: int = 0) -> AbstractContextManager[Path]:
        """A local file for what an attempt prints; where several workers train together, each has its own."""
        return self.store.log_file(_log_path(run, node, attempt, worker))

    def log_attempts(self, run: str, node: str) -> list[int]:
        """Numbers of the attempts that left a log."""
        return sorted({attempt for attempt, _ in self.logs(run, node)})

    def log_workers(self, run: str, node: str, attempt: int) -> list[int]:
        """Numbers of the workers of an attempt that left a log."""
        return [worker for found, worker in self.logs(run, node) if found == attempt]

    def read_log(self, run: str, node: str, attempt: int, *, worker: int = 0, offset: int = 0) -> bytes:
        """What the attempt printed, from byte `offset` on."""
        return self.store.read_log(_log_path(run, node, attempt, worker), offset=offset)

    def logs(self, run: str, node: str) -> list[tuple[int, int]]:
        """Attempt and worker of every log that there is."""
        names = map(_LOG_NAME.fullmatch, self.store.list(f"runs/{run}/nodes/{node}"))
        return sorted((int(name[1]), int(name[2] or 0)) for name in names if name is not None)

    def log_tail(self, run: str, node: str, attempt: int) -> list[str]:
        """The last lines that the attempt printed, as far as they are in the store."""
        data = self.read_log(run, node, attempt)[-_TAIL_BYTES:]
        return data.decode(errors="replace").splitlines()[-_TAIL_LINES:]

    def _find_request(self, run: str) -> RunRequest | None:
        entry = self.store.read(f"runs/{run}/run.json")
        if entry is None:
            return None
        try:
            content = json.loads(entry.data)
            return RunRequest(id=content.pop("id"), created=content.pop("created"), content=content)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def _resolve_relative(self, name: str) -> str:
        if name not in ("@last", "@last-failed"):
            raise UsageError(f'"{name}" is no run; expected an id, the beginning of one, @last or @last-failed')
        for request in self.runs():
            if name == "@last" or any(event.get("state") == "failed" for event in self.events(request.id)[0][-1:]):
                return request.id
        raise UsageError(f"no {'failed ' if name != '@last' else ''}run in {self.store.url}", next_step="orchestrator ls")


def node_folder(node: str, key: str) -> str:
    """The folder of a node inside a run: its name and the beginning of its key, since labels hold odd characters."""
    return f"{node.replace('/', '.')}-{key[:12]}"


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: a browser that reads such a line stops there."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _log_path(run: str, node: str, attempt: int, worker: int) -> str:
    return f"runs/{run}/nodes/{node}/attempt-{attempt}{f'-worker-{worker}' if worker else ''}.log"


def now_text() -> str:
    """The present time in UTC, to the millisecond, as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _whole_lines(data: bytes, offset: int) -> tuple[list[dict[str, Any]], int]:
    whole = data[: data.rfind(b"\n") + 1]
    lines = []
    for line in whole.splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue  # a line torn by a loss of power
        if isinstance(content, dict):
            lines.append(content)
    return lines, offset + len(whole)
