"""The loop that drives a plan: ready set, admission, retries, waiting for others, cancellation.

It knows no process and no clock of its own: executor and clock are passed in, so the same code runs inline, on Ray and in
virtual time. What happened goes out as events, in the order in which it happened.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.engine.admission import Admission
from orchestrator.engine.executors.base import Executor, MachineShape
from orchestrator.engine.units import State, Unit, build_units
from orchestrator.engine.work import Ending, InputRef, Outcome, Work
from orchestrator.errors import PlanError
from orchestrator.store.artifacts import Artifacts
from orchestrator.store.lease import Leases
from orchestrator.store.ledger import now_text
from orchestrator.workflow.plan import Plan, Status, unmet_condition

TICK_S = 0.25
MAX_BUSY_WAIT_S = 1.0
MAX_BACKOFF_S = 60.0
RETRIED = (Ending.LOST, Ending.NO_MEMORY, Ending.STORAGE)
_FINAL = (State.DONE, State.FAILED, State.BLOCKED, State.SKIPPED)

Event = dict[str, Any]


class Clock(Protocol):
    """Seconds that only grow."""

    def __call__(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run goes on: keep going after a failure, and how long a cancelled stage may take to stop."""

    keep_going: bool = False
    grace_s: float = 10.0


class Scheduler:
    """Drives one plan to its end with one executor."""

    def __init__(
        self,
        plan: Plan,
        *,
        run: str,
        executor: Executor,
        shapes: Sequence[MachineShape],
        artifacts: Artifacts,
        leases: Leases,
        clock: Clock,
        emit: Callable[[list[Event]], None],
        tick: Callable[[], None] = lambda: None,
        is_cancel_asked: Callable[[], bool] = lambda: False,
        options: RunOptions = RunOptions(),
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        self.plan = plan
        self.run = run
        self.executor = executor
        self.admission = Admission(shapes, max_at_once=executor.max_at_once)
        self.artifacts = artifacts
        self.leases = leases
        self.clock = clock
        self.emit = emit
        self.tick = tick
        self.is_cancel_asked = is_cancel_asked
        self.options = options
        self.provenance = provenance or {}
        self.units = build_units(plan)
        self.running: dict[str, Unit] = {}
        self.waiting: dict[str, Unit] = {}  # BUSY or DELAYED: looked at again at `wake_at`
        self.forced_since = now_text()
        self.cancelled_at: float | None = None
        self.failed = False
        self._killed = False
        self._events: list[Event] = []
        self._newly_ready: deque[Unit] = deque()

    def drive(self) -> State:
        """Run to the end; returns DONE, FAILED or CANCELLED. Raises PlanError before anything runs if a node fits nowhere."""
        self._refuse_infeasible()
        self._newly_ready.extend(u for u in self.units.values() if u.state is State.PENDING and not u.open_parents)
        while True:
            self._heed_cancel()
            self._wake_waiting()
            while self._newly_ready:  # a queue, not recursion: chains may be thousands long
                self._make_ready(self._newly_ready.popleft())
            if self.cancelled_at is None and not (self.failed and not self.options.keep_going):
                self._admit()
            self._flush()
            if not self.running and not (self.waiting and self._may_start()):
                break
            ended = self.executor.poll(self._timeout_s())
            self._heed_cancel()  # an executor that blocks this loop may have stopped its node for it
            for work, outcome in ended:
                self._handle(self.units[work.label], work, outcome)
            self._stop_overdue()
            self._flush()
            self.tick()
        return self._finish()

    def _may_start(self) -> bool:
        return self.cancelled_at is None and (not self.failed or self.options.keep_going)

    def _refuse_infeasible(self) -> None:
        for unit in self.units.values():
            if unit.state is State.PENDING:
                reason = self.admission.reason_infeasible(unit.node.asked.resources)
                if reason:
                    raise PlanError(
                        f'node "{unit.label}" can never run here: {reason}',
                        next_step=f'ask for less under "resources" of node "{unit.node.node}", or use a larger machine',
                    )

    def _make_ready(self, unit: Unit) -> None:
        if unit.state is not State.PENDING or unit.open_parents:  # closed, or an input was lost again, since it was queued
            return
        node = unit.node
        if node.when is not None:
            label, condition = node.when
            unmet = unmet_condition(condition, self.units[label].metrics)
            if unmet:
                self._skip(unit, unmet)
                return
        if node.status is Status.SHARED:
            record = self.artifacts.find(node.spec.name, node.key)
            if record is not None:
                self._done(unit, {**record.metrics, **record.measurements}, seconds=0.0, ending=Ending.SHARED, run=record.run)
                return
        unit.state = State.READY
        unit.ready_since = self.clock()
        self.admission.add(unit.label, node.asked.resources)

    def _admit(self) -> None:
        for label in self.admission.admit(self.clock()):
            unit = self.units[label]
            unit.state = State.RUNNING
            unit.attempt += 1
            unit.started_at = self.clock()
            unit.stop_asked_at = None
            self.running[label] = unit
            self._event("node_started", unit, attempt=unit.attempt)
            self.executor.submit(self._work(unit), unit.node.asked.resources)

    def _work(self, unit: Unit) -> Work:
        node = unit.node

        def reference(label: str) -> InputRef:
            parent = self.plan.nodes[label]
            return InputRef(stage=parent.spec.name, key=parent.key, label=label)

        resources = node.asked.resources
        return Work(
            run=self.run,
            label=unit.label,
            folder=unit.folder,
            stage=node.spec.name,
            key=node.key,
            identity=node.identity,
            settings=node.settings.model_dump(mode="json", exclude_unset=True),
            seed=node.seed,
            inputs={
                port: reference(value) if isinstance(value, str) else [reference(label) for label in value]
                for port, value in node.inputs.items()
            },
            attempt=unit.attempt,
            num_threads=max(1, int(resources.cpus)),
            use_gpu=resources.gpus > 0,
            forced_since=self.forced_since if node.forced else "",
            stale_lease=unit.stale_lease,
            timeout_s=node.asked.timeout,
            provenance=self.provenance,
        )

    def _handle(self, unit: Unit, work: Work, outcome: Outcome) -> None:
        del self.running[unit.label]
        self.admission.release(unit.label)
        match outcome.ending:
            case Ending.DONE | Ending.SHARED:
                self._done(unit, outcome.metrics, seconds=outcome.seconds, ending=outcome.ending, size_bytes=outcome.size_bytes,
                           content_digest=outcome.content_digest, host=outcome.host)  # fmt: skip
            case Ending.BUSY:
                unit.attempt -= 1
                if unit.state is not State.BUSY and not unit.busy_wait_s:
                    self._event("node_waiting", unit, holder=outcome.holder)
                unit.busy_wait_s = min(MAX_BUSY_WAIT_S, (unit.busy_wait_s or TICK_S / 8) * 2)
                self._wait(unit, State.BUSY, unit.busy_wait_s)
            case Ending.CANCELLED if self.cancelled_at is not None:
                unit.state = State.CANCELLED
                self._event("node_cancelled", unit)
            case Ending.DAMAGED_INPUT if not unit.repaired_inputs:
                self._event("attempt_failed", unit, **_error(outcome, work), will_retry=True, delay_s=0.0)
                self._make_inputs_again(unit)
            case _:
                self._attempt_failed(unit, work, outcome)

    def _attempt_failed(self, unit: Unit, work: Work, outcome: Outcome) -> None:
        retry = unit.node.asked.retry
        ending = "timeout" if self._ran_too_long(unit, outcome) else outcome.ending.value
        if self.cancelled_at is not None:
            unit.state = State.CANCELLED
            self._event("node_cancelled", unit)
            return
        again = outcome.ending in RETRIED or (
            outcome.ending is Ending.FAILED and retry.on_error and not unit.is_hopeless(outcome)
        )
        again = again and ending != "timeout" and unit.attempt < retry.attempts
        delay_s = min(MAX_BACKOFF_S, retry.backoff * 2 ** (unit.attempt - 1)) if again else 0.0
        details = {**_error(outcome, work), "ending": ending}
        if ending == "timeout":
            details["error"] = f"ran longer than its timeout of {unit.node.asked.timeout:g} s"
        self._event("attempt_failed", unit, **details, will_retry=again, delay_s=delay_s)
        if again:
            self._wait(unit, State.DELAYED, delay_s)
            return
        unit.state = State.FAILED
        self.failed = True
        self._event("node_failed", unit, **details)
        self._block_below(unit)

    def _ran_too_long(self, unit: Unit, outcome: Outcome) -> bool:
        """Whether the attempt ended because of its timeout, noticed here or by an executor that blocks this loop."""
        timeout_s = unit.node.asked.timeout
        return unit.stop_asked_at is not None or (
            outcome.ending is Ending.CANCELLED and timeout_s is not None and self.clock() - unit.started_at > timeout_s
        )

    def _make_inputs_again(self, unit: Unit) -> None:
        """An input's bytes were found damaged; the worker has set it aside. Make what is missing again, then this node."""
        unit.repaired_inputs = True
        unit.state = State.PENDING
        unit.attempt -= 1
        for label in unit.input_labels:
            parent = self.units[label]
            if parent.state is State.DONE and self.artifacts.find(parent.node.spec.name, parent.node.key) is not None:
                continue
            unit.waits_for(parent)
            if parent.state is State.DONE:
                self._reopen(parent)
        if not unit.open_parents:
            self._newly_ready.append(unit)

    def _reopen(self, unit: Unit) -> None:
        """A finished node whose artifact is gone: it runs again, and what is still pending below waits for it again."""
        unit.state = State.PENDING
        for label in unit.children:
            if self.units[label].state is State.PENDING:
                self.units[label].open_parents.add(unit.label)
        for label in unit.node.parents:
            parent = self.units[label]
            if parent.state in (State.FAILED, State.BLOCKED, State.SKIPPED):  # it was a hit, and cannot be made any more
                unit.state = State.BLOCKED
                self.failed = True
                self._event("node_blocked", unit, by=parent.label)
                self._block_below(unit)
                return
            if parent.state is not State.DONE:
                unit.waits_for(parent)
        if not unit.open_parents:
            self._newly_ready.append(unit)

    def _done(self, unit: Unit, metrics: Mapping[str, Any], *, seconds: float, ending: Ending, **details: Any) -> None:
        unit.state = State.DONE
        unit.metrics = metrics
        self._event("node_done", unit, ending=ending.value, seconds=seconds, metrics=dict(metrics), **details)
        for label in unit.children:
            child = self.units[label]
            if child.state is State.PENDING:
                self._settle(child, unit)

    def _settle(self, child: Unit, parent: Unit) -> None:
        child.open_parents.discard(parent.label)
        if not child.open_parents:
            self._newly_ready.append(child)

    def _skip(self, unit: Unit, why: str) -> None:
        unit.state = State.SKIPPED
        self._event("node_skipped", unit, why=why)
        for child, parent in self._close_below(unit, State.SKIPPED):
            self._event("node_skipped", child, why=f"needs {parent.label}, which is skipped")

    def _block_below(self, unit: Unit) -> None:
        for child, _ in self._close_below(unit, State.BLOCKED):
            self._event("node_blocked", child, by=unit.label)

    def _close_below(self, unit: Unit, state: State) -> Iterator[tuple[Unit, Unit]]:
        """Put every pending node below `unit` into `state`; yields each with the parent that closed it.

        A node that only left its work to a closed one does the work itself, unless the work itself is what failed.
        """
        waiting = deque([unit])
        while waiting:
            parent = waiting.popleft()
            for label in parent.children:
                child = self.units[label]
                if child.state is not State.PENDING:
                    continue
                if child.maker == parent.label and parent.state is not State.FAILED and parent.label not in child.node.parents:
                    self._settle(child, parent)
                    continue
                child.state = state
                waiting.append(child)
                yield child, parent

    def _wait(self, unit: Unit, state: State, delay_s: float) -> None:
        unit.state = state
        unit.wake_at = self.clock() + delay_s
        self.waiting[unit.label] = unit

    def _wake_waiting(self) -> None:
        now = self.clock()
        for unit in [unit for unit in self.waiting.values() if unit.wake_at <= now]:
            key = unit.node.key
            if unit.state is State.BUSY:
                record = self.artifacts.find(unit.node.spec.name, key)
                if record is None or (unit.node.forced and record.finished < self.forced_since):
                    unit.stale_lease = self.leases.stale_version(key)
                    if not unit.stale_lease and self.leases.holder(key) is not None:
                        unit.busy_wait_s = min(MAX_BUSY_WAIT_S, unit.busy_wait_s * 2)
                        unit.wake_at = now + unit.busy_wait_s
                        continue
                else:
                    del self.waiting[unit.label]
                    self._done(unit, {**record.metrics, **record.measurements}, seconds=record.seconds, ending=Ending.SHARED,
                               run=record.run)  # fmt: skip
                    continue
            del self.waiting[unit.label]
            unit.state = State.READY
            unit.ready_since = now
            self.admission.add(unit.label, unit.node.asked.resources)

    def _timeout_s(self) -> float:
        if not self.waiting:
            return TICK_S
        next_wake_s = min(unit.wake_at for unit in self.waiting.values()) - self.clock()
        return min(TICK_S, max(0.0, next_wake_s))

    def _heed_cancel(self) -> None:
        if self.cancelled_at is None and self.is_cancel_asked():
            self.cancelled_at = self.clock()
            self._events.append({"type": "run_stopping", "why": "asked to stop"})
            for label in self.running:
                self.executor.cancel(label)
        if self.cancelled_at is not None and not self._killed and self.clock() - self.cancelled_at > self.options.grace_s:
            self._killed = True
            for label in self.running:
                self.executor.kill(label)

    def _stop_overdue(self) -> None:
        now = self.clock()
        for unit in self.running.values():
            timeout_s = unit.node.asked.timeout
            if timeout_s is None:
                continue
            if unit.stop_asked_at is None and now - unit.started_at > timeout_s:
                unit.stop_asked_at = now
                self.executor.cancel(unit.label)
            elif unit.stop_asked_at is not None and now - unit.stop_asked_at > self.options.grace_s:
                self.executor.kill(unit.label)

    def _finish(self) -> State:
        if self.cancelled_at is not None:
            for unit in self.units.values():
                if unit.state in (State.PENDING, State.READY, State.BUSY, State.DELAYED):
                    unit.state = State.CANCELLED
            return State.CANCELLED
        if self._may_start():
            left = [unit.label for unit in self.units.values() if unit.state not in _FINAL]
            assert not left, f"the run ended before these nodes did: {left}"
        return State.FAILED if self.failed else State.DONE

    def _event(self, kind: str, unit: Unit, **details: Any) -> None:
        self._events.append({"type": kind, "node": unit.label, "key": unit.node.key, **details})

    def _flush(self) -> None:
        if self._events:
            events, self._events = self._events, []
            self.emit(events)


def _error(outcome: Outcome, work: Work) -> Event:
    return {
        "attempt": work.attempt,
        "ending": outcome.ending.value,
        "error": outcome.error,
        "error_type": outcome.error_type,
        "trace": outcome.trace,
        "host": outcome.host,
    }
