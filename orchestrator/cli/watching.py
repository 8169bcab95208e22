"""What follows a run on a terminal, in a pipe, or for a program. Each is an `api.Watcher`; none decides anything."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from orchestrator.api import RunStatus, Watcher
from orchestrator.cli.shell import Shell
from orchestrator.report.progress import ProgressReader
from orchestrator.report.run_lines import event_line, is_quiet
from orchestrator.report.status_table import progress_text
from orchestrator.report.text import Style
from orchestrator.store.ledger import now_text

PROGRESS_EVERY_S = 10.0
TICK_S = 0.5


class FollowingWatcher(Watcher):
    """Base: ticks from a thread of its own while it watches, since the inline executor holds the main thread for a stage."""

    promise = "Ctrl-C asks it to stop, and the same command then goes on"
    """What Ctrl-C does, as it is said at the beginning."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.status: RunStatus | None = None
        self.lock = threading.RLock()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Follow until the end of the block, whatever ends it."""
        self.shell.stay()
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(TICK_S):
                if self.status is not None:
                    with self.lock:
                        self.beat(self.status)

        thread = threading.Thread(target=beat, name="watcher", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(timeout=5)
            self.close()

    def started(self, status: RunStatus) -> None:
        self.status = status

    def happened(self, events: Sequence[Mapping[str, Any]], status: RunStatus) -> None:
        with self.lock:
            self.tick(status)
            if self.shell.log_path is not None:
                self.shell.record(*self.lines(events, Style()))
            self.tell(events)

    def tick(self, status: RunStatus) -> None:
        self.status = status

    def tell(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Something happened."""

    def lines(self, events: Sequence[Mapping[str, Any]], style: Style, *, without: Sequence[str] = ()) -> list[str]:
        """A line for each event that people want to see; nodes of trials only with --verbose."""
        status = self.status
        assert status is not None
        told = [event for event in events if event["type"] not in without]
        if not self.shell.verbose:
            told = [event for event in told if not is_quiet(event, status.nodes)]
        made = (event_line(event, style=style, sweep=status.sweeps.get(event.get("sweep", ""))) for event in told)
        return [line for line in made if line]

    def beat(self, status: RunStatus) -> None:
        """Time has passed."""

    def close(self) -> None:
        """The run has ended, or is not watched any more."""


class PlainWatcher(FollowingWatcher):
    """One line for each event with its time, and now and then how far long nodes are; no line is ever drawn over."""

    def __init__(self, shell: Shell) -> None:
        super().__init__(shell)
        self._reader: ProgressReader | None = None
        self._told_s: dict[tuple[str, int], float] = {}

    def started(self, status: RunStatus) -> None:
        super().started(status)
        self.shell.say(f"run {status.id}; {self.promise}")

    def tell(self, events: Sequence[Mapping[str, Any]]) -> None:
        stamp = now_text()
        self.shell.show(*(f"{stamp}  {line}" for line in self.lines(events, Style())))

    def beat(self, status: RunStatus) -> None:
        now_s = time.monotonic()
        running = [node for node in status.nodes.values() if node.state == "running"]
        due = [
            node for node in running if now_s - self._told_s.setdefault((node.label, node.attempt), now_s) > PROGRESS_EVERY_S
        ]
        if not due:
            return
        self._reader = self._reader or ProgressReader(self.shell.workspace.ledger, status.id)
        progress = self._reader.read(status)
        for node in due:
            self._told_s[node.label, node.attempt] = now_s
            if node.label in progress:
                self.shell.say(f"{now_text()}  {Style().word('RUN')}  {node.label}  {progress_text(progress[node.label])}")


class LiveWatcher(FollowingWatcher):
    """A block that is drawn over; finished nodes scroll away above it."""

    def __init__(self, shell: Shell) -> None:
        super().__init__(shell)
        self._block: Any = None

    def started(self, status: RunStatus) -> None:
        super().started(status)
        from orchestrator.report.live import LiveBlock

        reader = ProgressReader(self.shell.workspace.ledger, status.id)
        self._block = LiveBlock(self.shell.err, reader, status, is_coloured=self.shell.err_style.is_coloured)

    def tell(self, events: Sequence[Mapping[str, Any]]) -> None:
        if self._block is None:
            return
        self._block.print(self.lines(events, self.shell.err_style, without=("node_started", "trial_started")))

    def tick(self, status: RunStatus) -> None:
        super().tick(status)
        if self._block is not None:
            self._block.status = status

    def close(self) -> None:
        if self._block is not None:
            self._block.close()
            self._block = None


class JsonWatcher(FollowingWatcher):
    """Every event as one line of JSON, and progress as events of the type `node_progress`."""

    def __init__(self, shell: Shell) -> None:
        super().__init__(shell)
        self._reader: ProgressReader | None = None
        self._told: dict[str, tuple[int, int]] = {}

    def tell(self, events: Sequence[Mapping[str, Any]]) -> None:
        run = self.status.id if self.status is not None else ""
        for event in events:
            self.shell.json_line({"time": now_text(), "run": run, **event})

    def beat(self, status: RunStatus) -> None:
        self._reader = self._reader or ProgressReader(self.shell.workspace.ledger, status.id)
        for label, found in self._reader.read(status).items():
            if self._told.get(label) != (found.attempt, found.step):
                self._told[label] = (found.attempt, found.step)
                progress = {"attempt": found.attempt, "step": found.step, "total": found.total, "metrics": dict(found.metrics)}
                self.shell.json_line({"time": now_text(), "run": status.id, "type": "node_progress", "node": label, **progress})


def make_watcher(shell: Shell) -> FollowingWatcher:
    """The watcher that suits where the text goes."""
    if shell.as_json:
        return JsonWatcher(shell)
    if shell.quiet:
        return FollowingWatcher(shell)
    return LiveWatcher(shell) if shell.is_live else PlainWatcher(shell)
