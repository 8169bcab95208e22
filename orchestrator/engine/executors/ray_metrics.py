"""What Prometheus may scrape from Ray while a run goes on: `orchestrator_*` through `ray.util.metrics`, with few tags.

In the driver: nodes by state, attempts by ending, CPU and GPU seconds. In each stage host: what the store answers and how fast,
and how old the last heartbeat of its leases is. Ray adds the process and the machine to each of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from ray.util.metrics import Counter, Gauge, Histogram

from orchestrator.store.base import Store
from stages.contract import Throttle

SHOW_EVERY_S = 1.0
_STORE_BOUNDARIES_S = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0]
_TIMED = ("read", "create", "replace", "delete", "append", "read_log", "put_blob", "has_blob", "blob_path")


class RunMetrics:
    """The driver's: counts of nodes, and what attempts came to."""

    def __init__(self) -> None:
        self._nodes = Gauge("orchestrator_nodes", "Nodes of the run by state; hit, made and shared are done.", ("state",))
        self._attempts = Counter("orchestrator_attempts", "Attempts that ended, by stage and ending.", ("stage", "ending"))
        self._cpu = Counter("orchestrator_cpu_seconds", "CPUs asked for times seconds, all attempts.", ("stage",))
        self._gpu = Counter("orchestrator_gpu_seconds", "GPUs asked for times seconds, all attempts.", ("stage",))
        self._states: set[str] = set()
        self._next_s = 0.0

    def show(self, count_states: Callable[[], Mapping[str, int]], *, is_final: bool) -> None:
        """Take over the counts, at most once in `SHOW_EVERY_S`, except for the final ones.

        A gauge that was not set since the last scrape is not there in the next: Ray forgets it.
        """
        now = time.monotonic()
        if now < self._next_s and not is_final:
            return
        self._next_s = now + SHOW_EVERY_S
        counts = count_states()
        self._states |= set(counts)
        for state in self._states:  # one that nobody is in any more must fall to 0
            self._nodes.set(counts.get(state, 0), tags={"state": state})

    def attempt_ended(self, *, stage: str, ending: str, seconds: float, cpus: float, gpus: float) -> None:
        """Count one attempt and what it held."""
        self._attempts.inc(tags={"stage": stage, "ending": ending})
        for counter, amount in ((self._cpu, cpus * seconds), (self._gpu, gpus * seconds)):
            if amount > 0:
                counter.inc(amount, tags={"stage": stage})


class HostMetrics:
    """A stage host's: the store as it answers there, and its leases."""

    def __init__(self) -> None:
        self._latency = Histogram(
            "orchestrator_store_latency_seconds", "Time of a store operation.", _STORE_BOUNDARIES_S, ("operation",)
        )
        self._bytes = Counter(
            "orchestrator_store_bytes",
            "Bytes given to and got from the store, its cache on this machine included.",
            ("operation",),
        )
        self._lease_age = Gauge("orchestrator_lease_age_seconds", "Since the last heartbeat of the oldest lease held.")
        self._beaten_s: float | None = None
        self._show_due = Throttle(SHOW_EVERY_S)

    def lease_age(self, seconds: float) -> None:
        """The age of the heartbeat that has waited longest; 0 where no lease is held."""
        self._beaten_s = time.monotonic() - seconds if seconds else None
        self._lease_age.set(seconds)

    def measured(self, store: Store) -> Store:
        """The same store; each operation of it is timed, and its bytes are counted."""
        return cast("Store", _Measured(store, self._observe))

    def _observe(self, operation: str, seconds: float, num_bytes: int) -> None:
        self._latency.observe(seconds, tags={"operation": operation})
        if num_bytes:
            self._bytes.inc(num_bytes, tags={"operation": operation})
        if self._show_due.ready():  # between two beats lies more than a scrape, which would find no gauge
            self._lease_age.set(time.monotonic() - self._beaten_s if self._beaten_s is not None else 0.0)


class _Measured:
    def __init__(self, store: Store, observe: Callable[[str, float, int], None]) -> None:
        self._store = store
        self._observe = observe

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if name not in _TIMED:
            return found

        def timed(*args: Any, **options: Any) -> Any:
            num_bytes = _size(args[0]) if name == "put_blob" else 0  # the file is gone afterwards
            started = time.monotonic()
            answer = found(*args, **options)
            self._observe(name, time.monotonic() - started, num_bytes or _num_bytes(args, answer))
            return answer

        setattr(self, name, timed)
        return timed


def _num_bytes(args: tuple[Any, ...], answer: Any) -> int:
    """Bytes that an operation moved: those it was given, else those it answered."""
    if isinstance(answer, Path):
        return _size(answer)
    for value in (*args[1:2], answer, getattr(answer, "data", None)):
        if isinstance(value, bytes):
            return len(value)
    return 0


def _size(file: Path) -> int:
    return file.stat().st_size
