"""A machine in virtual time: the executor, the clock and the executions they saw. Deterministic; nothing here sleeps.

Each node's attempts follow a script: how long one takes, and how it ends. The scheduler under test is the real one.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.engine.admission import request_amounts
from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.guide import Guide
from orchestrator.engine.scheduler import Event, RunOptions, Scheduler
from orchestrator.engine.units import State
from orchestrator.engine.work import Ending, Outcome, Work
from orchestrator.store.artifacts import Record
from orchestrator.store.lease import Holder
from orchestrator.workflow.plan import Plan, PlanNode
from orchestrator.workflow.spec import Resources

NEVER_S = float("inf")
NO_RETRY_NEEDED = (Ending.DONE, Ending.SHARED)


@dataclass(frozen=True)
class Attempt:
    """One attempt's script: it ends after `seconds` as `ending`; a stage that `hangs` does not heed a cancellation."""

    seconds: float = 1.0
    ending: Ending = Ending.DONE
    metrics: Mapping[str, Any] = field(default_factory=dict)
    error: str = "scripted"
    error_type: str = "RuntimeError"
    process_id: int = 0  # 0: the process did not come back to tell
    peak_memory_bytes: int = 0
    hangs: bool = False


@dataclass(frozen=True)
class Execution:
    """What happened: one attempt, from when to when, with what it held."""

    label: str
    attempt: int
    began_s: float
    ended_s: float
    ending: Ending
    amounts: Mapping[str, float]


class VirtualMachine:
    """Clock, executor, artifacts and leases in one world. `script[label]` lists the attempts; the last one repeats."""

    name = "virtual"

    def __init__(
        self,
        script: Mapping[str, Sequence[Attempt]] | None = None,
        *,
        shapes: Sequence[MachineShape] = (MachineShape(cpus=4),),
        max_at_once: int | None = None,
    ) -> None:
        self.script = {label: list(attempts) for label, attempts in (script or {}).items()}
        self.shapes = tuple(shapes)
        self.max_at_once = max_at_once
        self.dashboard = ("", "")
        self.now_s = 0.0
        self.executions: list[Execution] = []
        self.events: list[Event] = []
        self.done: dict[str, Record] = {}
        self.others: dict[str, float] = {}
        """By key: until when another run holds the lease; then it has made the artifact."""
        self.num_turns = 0
        self.max_running = 0
        self._tried: dict[str, int] = {}
        self._running: dict[str, tuple[Work, Resources, Attempt, float]] = {}
        self._turn_of: dict[str, int] = {}
        self._ends: list[tuple[float, int, str, int]] = []
        self._cancelled: dict[str, float] = {}
        self._killed: set[str] = set()
        self._order = itertools.count()

    def __call__(self) -> float:
        return self.now_s

    def start(self) -> tuple[MachineShape, ...]:
        return self.shapes

    def machines(self) -> tuple[MachineShape, ...]:
        return self.shapes

    def submit(self, work: Work, resources: Resources) -> None:
        assert work.label not in self._running, f"{work.label} runs twice at once"
        for value in work.inputs.values():
            for reference in [value] if not isinstance(value, (list, tuple)) else value:
                assert reference.key in self.done, f"{work.label} began before its input {reference.label} was done"
        tried = self._tried[work.label] = self._tried.get(work.label, 0) + 1
        attempts = self.script.get(work.label, [Attempt()])
        attempt = attempts[min(tried, len(attempts)) - 1]
        if work.key in self.others:
            attempt = Attempt(0.0, Ending.BUSY)
        elif work.key in self.done and not work.forced:
            attempt = Attempt(0.0, Ending.SHARED, self.done[work.key].metrics)
        self._running[work.label] = (work, resources, attempt, self.now_s)
        self._turn_of[work.label] = next(self._order)
        self.max_running = max(self.max_running, len(self._running))
        self._end_at(self.now_s + attempt.seconds, work.label)
        self._check_capacity()

    def poll(self, timeout_s: float, *, meanwhile: Callable[[], None]) -> list[tuple[Work, Outcome]]:
        """Advance to the next ending, or by the timeout if that comes first."""
        del meanwhile  # the scheduler is free while nodes run
        self.num_turns += 1
        until_s = self.now_s + timeout_s
        while self._ends and (self._is_over(self._ends[0]) or self._ends[0][0] == NEVER_S):
            heapq.heappop(self._ends)
        if not self._ends or self._ends[0][0] > until_s:
            self.now_s = until_s
            self._let_others_work()
            return []
        self.now_s = max(self.now_s, self._ends[0][0])
        ended = []
        while self._ends and self._ends[0][0] <= self.now_s:
            end = heapq.heappop(self._ends)
            if not self._is_over(end):
                ended.append(self._finish(end[2]))
        self._let_others_work()
        return ended

    def show(self, count_states: Any, *, is_final: bool = False) -> None:
        self.shown = count_states() if is_final else {}

    def cancel(self, label: str) -> None:
        if label in self._running and not self._running[label][2].hangs:
            self._cancelled.setdefault(label, self.now_s)
            self._end_at(self.now_s + 0.1, label)

    def kill(self, label: str) -> None:
        if label in self._running:
            self._killed.add(label)
            self._end_at(self.now_s, label)

    def close(self) -> None:
        assert not self._running

    def find(self, _stage: str, key: str) -> Record | None:
        """The scheduler's look into the store."""
        return self.done.get(key)

    def holder(self, key: str) -> Holder | None:
        """The scheduler's look at a lease."""
        return Holder("t", "h", 1, "1", "other-run") if key in self.others else None

    def stale_version(self, key: str) -> str:
        del key
        return ""

    def runs_of(self, label: str) -> list[Execution]:
        """The attempts of one node."""
        return [execution for execution in self.executions if execution.label == label]

    def kinds_of(self, label: str) -> list[str]:
        """The events of one node."""
        return [event["type"] for event in self.events if event.get("node") == label]

    def _end_at(self, at_s: float, label: str) -> None:
        heapq.heappush(self._ends, (at_s, next(self._order), label, self._turn_of[label]))

    def _is_over(self, end: tuple[float, int, str, int]) -> bool:
        """Whether the attempt that was to end then has ended another way."""
        return end[2] not in self._running or self._turn_of[end[2]] != end[3]

    def _finish(self, label: str) -> tuple[Work, Outcome]:
        work, resources, attempt, began_s = self._running.pop(label)
        ending = attempt.ending
        if label in self._killed:
            ending = Ending.LOST
        elif label in self._cancelled:
            ending = Ending.CANCELLED
        self._killed.discard(label)
        self._cancelled.pop(label, None)
        if ending in NO_RETRY_NEEDED:
            self.done[work.key] = record_of(work, attempt.metrics, seconds=attempt.seconds)
        self.executions.append(Execution(label, work.attempt, began_s, self.now_s, ending, request_amounts(resources)))
        failed = ending not in (*NO_RETRY_NEEDED, Ending.BUSY)
        return work, Outcome(
            ending=ending,
            metrics=attempt.metrics if not failed else {},
            seconds=self.now_s - began_s,
            error=attempt.error if failed else "",
            error_type=attempt.error_type if failed else "",
            process_id=attempt.process_id,
            peak_memory_bytes=attempt.peak_memory_bytes,
            holder="other-run" if ending is Ending.BUSY else "",
        )

    def _check_capacity(self) -> None:
        held: dict[str, float] = {}
        for _, resources, _, _ in self._running.values():
            for name, amount in request_amounts(resources).items():
                held[name] = held.get(name, 0.0) + amount
        for name, amount in held.items():
            offered = sum(
                {"CPU": shape.cpus, "GPU": shape.gpus, "memory": shape.memory_bytes, **shape.custom}.get(name, 0)
                for shape in self.shapes
            )
            assert amount <= offered + 1e-6, f"{amount} {name} are held and {offered} are there"
        assert self.max_at_once is None or len(self._running) <= self.max_at_once

    def _let_others_work(self) -> None:
        for key in [key for key, until_s in self.others.items() if until_s <= self.now_s]:
            del self.others[key]
            self.done[key] = replace(_BLANK, key=key, run="other-run")


_BLANK = Record(
    key="", stage="probe.echo", kind="probe", identity={}, files={}, metrics={}, measurements={}, content_digest="",
    input_digests={}, source_digest="", label="", run="", attempt=1, finished="9999", seconds=0.0,
)  # fmt: skip


def record_of(work: Work, metrics: Mapping[str, Any], *, seconds: float) -> Record:
    """The record that the attempt would have published."""
    return replace(_BLANK, key=work.key, stage=work.stage, metrics=metrics, label=work.label, run=work.run, seconds=seconds)


def drive(
    plan: Plan,
    machine: VirtualMachine,
    *,
    options: RunOptions | None = None,
    guide: Guide | None = None,
    **asked: Any,
) -> tuple[State, Scheduler]:
    """Drive a plan to its end on the machine; hits of the plan are in its store from the start."""
    for node in plan.nodes.values():
        if node.record is not None:
            machine.done.setdefault(node.key, node.record)
    scheduler = scheduler_of(plan, machine, options=options, guide=guide, **asked)
    return scheduler.drive(), scheduler


def scheduler_of(
    plan: Plan,
    machine: VirtualMachine,
    *,
    options: RunOptions | None = None,
    guide: Guide | None = None,
    **asked: Any,
) -> Scheduler:
    """A scheduler on the machine, not yet driven."""
    return Scheduler(
        plan,
        run="run",
        executor=machine,
        shapes=machine.shapes,
        artifacts=machine,  # type: ignore[arg-type]
        leases=machine,  # type: ignore[arg-type]
        clock=machine,
        emit=machine.events.extend,
        options=options or RunOptions(),
        guide=guide,
        **asked,
    )


class ScriptedGuide:
    """Does what its script says at the given moments of the machine's time; more may come until the last is done."""

    def __init__(self, machine: VirtualMachine, actions: Sequence[tuple[float, Callable[[Scheduler], object]]]) -> None:
        self._machine = machine
        self._actions = deque(sorted(actions, key=lambda action: action[0]))

    def advance(self, scheduler: Scheduler) -> bool:
        while self._actions and self._machine.now_s >= self._actions[0][0]:
            self._actions.popleft()[1](scheduler)
        return bool(self._actions)

    def look(self, scheduler: Scheduler) -> None:
        """Nodes of this machine run beside the scheduler."""


def trial_nodes(plan: Plan, trial: str, *, outer: Collection[str] = ()) -> list[PlanNode]:
    """The plan's nodes as those of a trial: labelled search/TRIAL/NODE, save for the outer ones, which are left out."""

    def renamed(label: str) -> str:
        return label if label in outer else f"search/{trial}/{label}"

    return [
        replace(
            node,
            label=renamed(label),
            inputs={
                port: renamed(value) if isinstance(value, str) else tuple(renamed(each) for each in value)
                for port, value in node.inputs.items()
            },
            after=tuple(renamed(each) for each in node.after),
            when=(renamed(node.when[0]), node.when[1]) if node.when else None,
        )
        for label, node in plan.nodes.items()
        if label not in outer
    ]
