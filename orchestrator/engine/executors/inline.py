"""Runs nodes one by one in this very process: for small work, for debugging, and for tests that kill it at every point."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.work import Outcome, Work
from orchestrator.engine.worker import Worker
from orchestrator.store.base import Store
from orchestrator.workflow.spec import Resources
from stages.contract import Throttle

MEANWHILE_INTERVAL_S = 0.25


class InlineExecutor:
    """One node at a time, in the thread that polls."""

    name = "inline"
    max_at_once: int | None = 1
    dashboard = ("", "")

    def __init__(self, store: Store, *, run: str, is_stop_asked: Callable[[], bool] = lambda: False) -> None:
        """`is_stop_asked` tells of a signal, which the scheduler cannot heed while a stage runs in its place."""
        self._worker = Worker(store, run=run, capture=_capture, is_cancelled=self._is_cancelled)
        self._queue: deque[Work] = deque()
        self._cancelled: set[str] = set()
        self._running = ""
        self._deadline_s = math.inf
        self._is_stop_asked = is_stop_asked
        self._run = run
        self._look = Throttle(1.0)
        self._meanwhile: Callable[[], None] = _do_nothing
        self._meanwhile_due = Throttle(MEANWHILE_INTERVAL_S)
        self._num_epochs = 0
        self._machines = (MachineShape(cpus=os.cpu_count() or 1, memory_bytes=physical_memory_bytes()),)

    def start(self) -> tuple[MachineShape, ...]:
        return self._machines

    def machines(self) -> tuple[MachineShape, ...]:
        return self._machines

    def submit(self, work: Work, resources: Resources) -> None:  # noqa: ARG002 - this process has what it has
        self._queue.append(work)

    def poll(self, timeout_s: float, *, meanwhile: Callable[[], None]) -> list[tuple[Work, Outcome]]:
        if not self._queue:
            time.sleep(timeout_s)
            return []
        work = self._queue.popleft()
        self._running = work.label
        self._meanwhile = meanwhile
        self._deadline_s = math.inf if work.timeout_s is None else time.monotonic() + work.timeout_s
        try:
            return [(work, self._worker.run_work(work))]
        finally:
            self._running = ""
            self._meanwhile = _do_nothing
            self._cancelled.discard(work.label)

    def show(self, count_states: Callable[[], Mapping[str, int]], *, is_final: bool = False) -> None:
        """Nobody watches this process but its own terminal."""

    def cancel(self, label: str) -> None:
        self._cancelled.add(label)

    def kill(self, label: str) -> None:
        self._cancelled.add(label)  # this process cannot be killed from within; the stage stops at its next step

    def close(self) -> None:
        self._worker.close()

    def _is_cancelled(self) -> bool:
        """Asked from inside the stage, while the scheduler cannot run: so signals, mark and timeout are heeded here too.

        So is whoever may lose interest in the node: a few times a second, and whenever an epoch has ended.
        """
        if self._is_stop_asked() or time.monotonic() > self._deadline_s:
            return True
        if self._look.ready() and self._worker.ledger.is_cancel_asked(self._run):
            self._cancelled.add(self._running)
        if self._meanwhile_due.ready() or self._num_epochs != self._worker.num_epochs:
            self._num_epochs = self._worker.num_epochs
            self._meanwhile()
        return self._running in self._cancelled


def _do_nothing() -> None: ...


@contextmanager
def _capture(log: Path) -> Iterator[None]:
    with log.open("a", buffering=1, encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        yield


def physical_memory_bytes() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
