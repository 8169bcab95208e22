"""The actor that runs stages, one at a time. Its control group answers while a stage is busy."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import ray

from orchestrator.engine.executors.ray_metrics import HostMetrics
from orchestrator.engine.work import Ending, Work
from orchestrator.engine.worker import Worker
from orchestrator.store.base import open_store


class Leaving:
    """SIGTERM to an actor: a stage that runs saves its state and stops, as far as the grace that whoever asked gives lasts."""

    def __init__(self, is_busy: Callable[[], bool]) -> None:
        self.is_asked = False
        self._is_busy = is_busy
        self._former: Any = signal.getsignal(signal.SIGTERM)
        signal.signal(signal.SIGTERM, self._leave)

    def _leave(self, number: int, frame: FrameType | None) -> None:
        if self._is_busy() and not self.is_asked:
            self.is_asked = True
        elif callable(self._former):
            self._former(number, frame)


class StageHost:
    """One process of the pool. Every outcome is returned as text; no class of a stage crosses the process boundary."""

    def __init__(self, store_url: str, run: str) -> None:
        self._cancelled: set[int] = set()
        self._running = 0
        self._run = run
        self._leaving = Leaving(lambda: bool(self._running))
        if not ray.get_runtime_context().get_accelerator_ids().get("GPU"):
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray leaves the GPUs visible to who asked for none, unless told otherwise
        metrics = HostMetrics()
        self._worker = Worker(
            metrics.measured(open_store(store_url)),
            run=run,
            capture=capture_descriptors,
            is_cancelled=lambda: self._leaving.is_asked or self._running in self._cancelled,
            on_beat=metrics.lease_age,
        )

    def run(self, work_json: str, ticket: int) -> str:
        """Run one node; `ticket` is the number by which this attempt can be cancelled."""
        self._running = ticket
        try:
            outcome = self._worker.run_work(Work.from_json(work_json))
            if outcome.ending is Ending.CANCELLED and self._leaving.is_asked and ticket not in self._cancelled:
                outcome = replace(outcome, ending=Ending.PREEMPTED, error="its process was asked to leave (SIGTERM)")
            return outcome.to_json()
        finally:
            self._running = 0
            self._cancelled.discard(ticket)

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def cancel(self, ticket: int) -> None:
        """Ask the stage that runs this attempt to stop at its next safe point."""
        self._cancelled.add(ticket)

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def machine(self) -> str:
        """The name of the machine that Ray has chosen."""
        return str(ray.get_runtime_context().get_node_id())

    def __repr__(self) -> str:
        return f"StageHost({self._run})"


@contextmanager
def capture_descriptors(log: Path) -> Iterator[None]:
    """Send all that this process prints, by Python or by a library in C, to the attempt's log."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(saved[0], 1)
        os.dup2(saved[1], 2)
        for each in (descriptor, *saved):
            os.close(each)
