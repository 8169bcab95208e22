"""A cluster in virtual time: executor, clock, artifacts and leases in one world, for the real scheduler. Nothing here sleeps.

What an attempt comes to is asked of a function (`Attempts`): a script, recorded seconds, or `random_attempts` with failures.
Where it runs is decided here, machine by machine, as a cluster does: machines leave and come back, what ran on them is lost.
The same inputs give the same run. It computes nothing and writes nothing.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.floor import Amounts, Floor, Place, request_amounts
from orchestrator.engine.work import Ending, InputRef, Outcome, Work
from orchestrator.store.artifacts import Record
from orchestrator.store.lease import Holder
from orchestrator.workflow.spec import Resources

NEVER_S = float("inf")
STOPPING_S = 0.1
"""So long a simulated stage takes to heed a cancellation."""

_MADE = (Ending.DONE, Ending.SHARED)
_CUT_OFF = (Ending.LOST, Ending.LOST_NODE, Ending.PREEMPTED, Ending.CANCELLED)


@dataclass(frozen=True)
class Attempt:
    """What one attempt comes to: it ends after `seconds` as `ending`; a stage that `hangs` does not heed a cancellation."""

    seconds: float = 1.0
    ending: Ending = Ending.DONE
    metrics: Mapping[str, Any] = field(default_factory=dict)
    error: str = "simulated"
    error_type: str = "RuntimeError"
    process_id: int = 0  # 0: the process did not come back to tell
    peak_memory_bytes: int = 0
    peak_gpu_bytes: int = 0
    gpu_bytes: int = 0
    hangs: bool = False


Attempts = Callable[[Work, int], Attempt]
"""What the so-many-th attempt (from 1) at a node comes to."""


@dataclass(frozen=True)
class Execution:
    """What happened: one attempt, or one of its workers, from when to when, on which machine, with what it held."""

    label: str
    attempt: int
    began_s: float
    ended_s: float
    ending: Ending
    amounts: Mapping[str, float]
    machine: str
    worker: int = 0


@dataclass(frozen=True)
class Outage:
    """A machine is away from one second until another. `is_preempted`: its processes are told and save what they have."""

    at_s: float
    machine: str
    back_s: float = NEVER_S
    is_preempted: bool = False


@dataclass
class _Running:
    work: Work
    resources: Resources
    attempt: Attempt
    turn: int
    place: Place | None = None  # None: it waits for room, as on a cluster that has lost a machine since it was admitted
    began_s: float = 0.0
    stopped_as: Ending | None = None


class SimulatedCluster:
    """Machines, a clock (call it), a store of finished keys and others' leases.

    Attributes:
        now_s: virtual seconds since the beginning.
        executions: what ran, in the order in which it ended.
        held_s: by resource, amount times seconds that attempts held it.
        done: records by key; `others`: until when another run holds the lease of a key, and then has made it.
    """

    name = "simulated"

    def __init__(
        self,
        attempts: Attempts = lambda _work, _number: Attempt(),
        *,
        shapes: Sequence[MachineShape] = (MachineShape(cpus=4),),
        max_at_once: int | None = None,
        outages: Iterable[Outage] = (),
        resumes: bool = False,
    ) -> None:
        """`outages` in the order of their time, endless where need be; `resumes`: what is cut off goes on from where it was."""
        self.attempts = attempts
        self.max_at_once = max_at_once
        self.dashboard = ("", "")
        self.now_s = 0.0
        self.executions: list[Execution] = []
        self.held_s: Amounts = {}
        self.done: dict[str, Record] = {}
        self.others: dict[str, float] = {}
        self.num_turns = 0
        self.max_running = 0
        self._all = tuple(
            shape if shape.name else replace(shape, name=f"machine-{number}") for number, shape in enumerate(shapes)
        )
        self._resumes = resumes
        self._saved_s: dict[str, float] = {}
        self._tried: dict[str, int] = {}
        self._running: dict[str, _Running] = {}
        self._crowded: deque[str] = deque()
        self._ends: list[tuple[float, int, str]] = []
        self._order = itertools.count()
        self._outages: Iterator[Outage] = iter(outages)
        self._next_outage = next(self._outages, None)
        self._returns: list[tuple[float, str]] = []
        self._away: set[str] = set()
        self._has_changed = False
        self._settle_machines()
        self._change_machines()

    def __call__(self) -> float:
        return self.now_s

    # The executor

    def start(self) -> tuple[MachineShape, ...]:
        return self.shapes

    def machines(self) -> tuple[MachineShape, ...]:
        return self.shapes

    def submit(self, work: Work, resources: Resources) -> None:
        assert work.label not in self._running, f"{work.label} runs twice at once"
        for value in work.inputs.values():
            for reference in (value,) if isinstance(value, InputRef) else value:
                assert reference.key in self.done, f"{work.label} began before its input {reference.label} was done"
        number = self._tried[work.label] = self._tried.get(work.label, 0) + 1
        attempt = self.attempts(work, number)
        if work.key in self.others:
            attempt = Attempt(0.0, Ending.BUSY)
        elif work.key in self.done and not work.forced:
            attempt = Attempt(0.0, Ending.SHARED, self.done[work.key].metrics)
        elif self._resumes and work.key in self._saved_s:
            attempt = replace(attempt, seconds=max(0.0, attempt.seconds - self._saved_s[work.key]))
        self._running[work.label] = _Running(work, resources, attempt, next(self._order))
        self.max_running = max(self.max_running, len(self._running))
        assert self.max_at_once is None or len(self._running) <= self.max_at_once
        self._crowded.append(work.label)
        self._begin_crowded()
        assert self._has_changed or not self._crowded, f"{work.label} was admitted where no machine has room for it"

    def poll(self, timeout_s: float, *, meanwhile: Callable[[], None]) -> list[tuple[Work, Outcome]]:
        """Advance to the next ending or change of the machines, or by the timeout if that comes first."""
        del meanwhile  # the scheduler is free while nodes run
        self.num_turns += 1
        while self._ends and (self._is_over(self._ends[0]) or self._ends[0][0] == NEVER_S):
            heapq.heappop(self._ends)
        next_end_s = self._ends[0][0] if self._ends else NEVER_S
        self.now_s = max(self.now_s, min(self.now_s + timeout_s, next_end_s, self._next_change_s()))
        ended = [self._finish(label) for label in self._settle_machines()]
        while self._ends and self._ends[0][0] <= self.now_s:
            end = heapq.heappop(self._ends)
            if not self._is_over(end):
                ended.append(self._finish(end[2]))
        self._begin_crowded()
        self._let_others_work()
        return ended

    def show(self, count_states: Callable[[], Mapping[str, int]], *, is_final: bool = False) -> None:
        """Nobody watches."""

    def cancel(self, label: str) -> None:
        running = self._running.get(label)
        if running is not None and not running.attempt.hangs and running.stopped_as is None:
            running.stopped_as = Ending.CANCELLED
            self._end_at(self.now_s + STOPPING_S, label)

    def kill(self, label: str) -> None:
        if label in self._running:
            self._running[label].stopped_as = Ending.LOST
            self._end_at(self.now_s, label)

    def close(self) -> None:
        assert not self._running

    # The scheduler's look into the store and at leases

    def find(self, _stage: str, key: str) -> Record | None:
        """The record of a finished key."""
        return self.done.get(key)

    def holder(self, key: str) -> Holder | None:
        """Which other run holds the lease of a key."""
        return Holder("t", "h", 1, "1", "other-run") if key in self.others else None

    def stale_version(self, _key: str) -> str:
        """No lease here is ever left behind."""
        return ""

    # Attempts

    def _end_at(self, at_s: float, label: str) -> None:
        heapq.heappush(self._ends, (at_s, self._running[label].turn, label))

    def _is_over(self, end: tuple[float, int, str]) -> bool:
        """Whether the attempt that was to end then has ended another way."""
        running = self._running.get(end[2])
        return running is None or running.turn != end[1]

    def _begin_crowded(self) -> None:
        """Let what waits for a machine begin where there is room, in the order in which it came."""
        while self._crowded:
            label = self._crowded[0]
            if label in self._running:
                running = self._running[label]
                running.place = self.floor.take(request_amounts(running.resources), workers=running.resources.workers)
                if running.place is None:
                    return
                running.began_s = self.now_s
                self._end_at(self.now_s + running.attempt.seconds, label)
            self._crowded.popleft()

    def _finish(self, label: str) -> tuple[Work, Outcome]:
        running = self._running.pop(label)
        work, attempt, place = running.work, running.attempt, running.place
        ending = running.stopped_as or attempt.ending
        seconds = self.now_s - running.began_s if place is not None else 0.0
        if place is not None:
            self.floor.account(place, +1)
            for worker, each in enumerate(place.each):
                for name, amount in each.amounts.items():
                    self.held_s[name] = self.held_s.get(name, 0.0) + amount * seconds
                self.executions.append(
                    Execution(label, work.attempt, running.began_s, self.now_s, ending, each.amounts, each.machine, worker)
                )
        if ending in _MADE:
            self.done[work.key] = record_of(work, attempt.metrics, seconds=attempt.seconds)
        elif ending in _CUT_OFF:
            self._saved_s[work.key] = self._saved_s.get(work.key, 0.0) + seconds
        is_failure = ending not in (*_MADE, Ending.BUSY)
        return work, Outcome(
            ending=ending,
            metrics={} if is_failure else attempt.metrics,
            seconds=seconds,
            error=attempt.error if is_failure else "",
            error_type=attempt.error_type if is_failure else "",
            process_id=attempt.process_id,
            peak_memory_bytes=attempt.peak_memory_bytes,
            peak_gpu_bytes=attempt.peak_gpu_bytes,
            gpu_bytes=attempt.gpu_bytes,
            holder="other-run" if ending is Ending.BUSY else "",
        )

    def _let_others_work(self) -> None:
        for key in [key for key, until_s in self.others.items() if until_s <= self.now_s]:
            del self.others[key]
            self.done[key] = replace(_BLANK, key=key, run="other-run")

    # Machines

    def _next_change_s(self) -> float:
        leaves_s = self._next_outage.at_s if self._next_outage is not None else NEVER_S
        return min(leaves_s, self._returns[0][0] if self._returns else NEVER_S)

    def _settle_machines(self) -> list[str]:
        """Let machines leave and return whose time has come; returns the attempts that ended with them."""
        lost: list[str] = []
        has_changed = False
        while self._next_change_s() <= self.now_s:
            has_changed = True
            if self._returns and self._returns[0][0] <= self.now_s:
                self._away.discard(heapq.heappop(self._returns)[1])
                continue
            outage = self._next_outage
            assert outage is not None
            self._next_outage = next(self._outages, None)
            if outage.machine not in self._away:
                self._away.add(outage.machine)
                heapq.heappush(self._returns, (outage.back_s, outage.machine))
                lost += self._lose(outage)
        if has_changed:
            self._change_machines()
            self._has_changed = True
        return lost

    def _lose(self, outage: Outage) -> list[str]:
        lost = []
        for label, running in self._running.items():
            if running.place is not None and any(each.machine == outage.machine for each in running.place.each):
                running.stopped_as = Ending.PREEMPTED if outage.is_preempted else Ending.LOST_NODE
                lost.append(label)
        return lost

    def _change_machines(self) -> None:
        self.shapes = tuple(shape for shape in self._all if shape.name not in self._away)
        self.floor = Floor(self.shapes)
        for running in self._running.values():
            if running.place is not None:
                self.floor.account(running.place, -1)


def random_attempts(
    seconds_of: Callable[[Work], float],
    *,
    failure_rate: float = 0.0,
    endings: Mapping[Ending, float] | None = None,
    seed: int = 0,
) -> Attempts:
    """Attempts that take what they are said to take, and fail by chance somewhere on the way.

    Args:
        seconds_of: how long a node takes from beginning to end.
        failure_rate: share of attempts that fail, 0 to 1.
        endings: weights of the ways in which they fail; by default the process dies.
        seed: with the node's label and the attempt's number it decides; the order of events does not.
    """
    kinds, weights = zip(*(endings or {Ending.LOST: 1.0}).items(), strict=True)

    def attempt(work: Work, number: int) -> Attempt:
        seconds = seconds_of(work)
        if failure_rate > 0:
            chance = random.Random(f"{seed} {work.label} {number}")  # noqa: S311 - a simulation, nothing is hidden
            if chance.random() < failure_rate:
                return Attempt(seconds * chance.random(), chance.choices(kinds, weights)[0])
        return Attempt(seconds)

    return attempt


def random_outages(
    machines: Sequence[str], *, per_hour: float, away_s: float, is_preempted: bool, seed: int = 0
) -> Iterator[Outage]:
    """Endless outages of each machine at a mean rate (exponential times between them), in the order of their time."""
    if per_hour <= 0:
        return
    chance = random.Random(f"{seed} {per_hour} {is_preempted}")  # noqa: S311 - a simulation, nothing is hidden
    leaves = [(chance.expovariate(per_hour / 3600), name) for name in machines]
    heapq.heapify(leaves)
    while leaves:
        at_s, name = heapq.heappop(leaves)
        yield Outage(at_s, name, at_s + away_s, is_preempted)
        heapq.heappush(leaves, (at_s + away_s + chance.expovariate(per_hour / 3600), name))


_BLANK = Record(
    key="", stage="simulated", kind="simulated", identity={}, files={}, metrics={}, measurements={}, content_digest="",
    input_digests={}, source_digest="", label="", run="", attempt=1, finished="9999", seconds=0.0,
)  # fmt: skip


def record_of(work: Work, metrics: Mapping[str, Any], *, seconds: float) -> Record:
    """The record that the attempt would have published."""
    return replace(_BLANK, key=work.key, stage=work.stage, metrics=metrics, label=work.label, run=work.run, seconds=seconds)
