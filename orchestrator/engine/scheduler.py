"""The loop that drives a run: admission, retries, waiting for others, and a guide that may add nodes.

It knows no process and no clock of its own: executor and clock are passed in, so the same code runs inline, on Ray and in
virtual time. Who waits for whom is the graph's. What happened goes out as events, in the order in which it happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from orchestrator.engine.admission import Admission
from orchestrator.engine.executors.base import Executor, MachineShape
from orchestrator.engine.gpu_memory import GpuNeed, with_gpu_share
from orchestrator.engine.graph import Graph
from orchestrator.engine.guide import Guide, NoGuide
from orchestrator.engine.meter import Meter
from orchestrator.engine.retries import FailureClass
from orchestrator.engine.run_options import TICK_S, Clock, Event, RunOptions
from orchestrator.engine.run_view import RunView
from orchestrator.engine.stopping import Stopping
from orchestrator.engine.units import Origin, State, Unit, order_for
from orchestrator.engine.waiting import FinishedArtifacts, OthersLeases, WaitingNodes
from orchestrator.engine.work import Ending, Outcome, Work
from orchestrator.errors import PlanError
from orchestrator.workflow.budget import exceeded
from orchestrator.workflow.plan import Plan, PlanNode, unmet_condition

__all__ = ["TICK_S", "Clock", "Event", "RunOptions", "Scheduler"]


class Scheduler(RunView):
    """Drives one plan, and what its guide adds, to the end with one executor."""

    def __init__(
        self,
        plan: Plan,
        *,
        run: str,
        executor: Executor,
        shapes: Sequence[MachineShape],
        artifacts: FinishedArtifacts,
        leases: OthersLeases,
        clock: Clock,
        emit: Callable[[list[Event]], None],
        tick: Callable[[], None] = lambda: None,
        is_cancel_asked: Callable[[], bool] = lambda: False,
        grace_asked_s: Callable[[], float | None] = lambda: None,
        cancels_asked: Callable[[], Sequence[str]] = tuple,
        options: RunOptions | None = None,
        provenance: Mapping[str, Any] | None = None,
        guide: Guide | None = None,
        log_tail: Callable[[Work], Sequence[str]] = lambda _work: (),
        gpu_need: GpuNeed = lambda _unit, _units: None,
    ) -> None:
        options = options or RunOptions()
        self.run = run
        self.executor = executor
        self.admission = Admission(shapes, max_at_once=executor.max_at_once, max_gpus=options.max_gpus)
        self._machines = shapes
        self._machines_changed = False
        self.artifacts = artifacts
        self.clock = clock
        self.emit = emit
        self.tick = tick
        self.cancels_asked = cancels_asked
        self.options = options
        self.provenance = provenance or {}
        self.guide = guide or NoGuide()
        self.log_tail = log_tail
        self.graph = Graph(self._event)
        self.running: dict[str, Unit] = {}
        self.meter = Meter(options.spent_before, now_s=clock())
        self._gpu_need = gpu_need
        self._waiting = WaitingNodes(artifacts=artifacts, leases=leases, clock=clock)
        self._stopping = Stopping(
            executor,
            clock=clock,
            grace_s=options.grace_s,
            grace_asked_s=grace_asked_s,
            is_cancel_asked=is_cancel_asked,
        )
        self.over_budget = ""
        self._more_may_come = False
        self._is_looking = False
        self._look_error: Exception | None = None
        self._events: list[Event] = []
        for unit in self.graph.enter(plan.nodes.values(), group=""):
            self.graph.link(unit)

    @property
    def cancelled_at(self) -> float | None:
        """Since when the run is being stopped because it was asked to."""
        return self._stopping.cancelled_at

    @property
    def is_ending(self) -> bool:
        """Whether nothing more is started: asked to stop, out of budget, or failed without --keep-going."""
        is_stopped = self.cancelled_at is not None or bool(self.over_budget)
        return is_stopped or (self.graph.has_failed and not self.options.keep_going)

    # What a guide may ask for

    def add(self, nodes: Iterable[PlanNode], *, group: str = "") -> None:
        """Add planned nodes, in an order in which they can run; their parents are in the run already or among them.

        A label that is there with the same key is left alone, unless it was cancelled: then it is asked for again. A key that
        another node makes or has made is shared. A node of a group that fails does not fail the run. One that fits no machine
        fails; for the first plan `drive` refuses. Raises ValueError for a label with another key, or an unknown parent.
        """
        assert not self._is_looking, "a look from inside a stage may only abandon"
        entered = self.graph.enter(nodes if group else self.graph.without_given_up(nodes), group=group)
        if not entered:
            return
        self.note("nodes_added", nodes=[unit.plan_row for unit in entered])
        for unit in entered:
            reason = self._reason_infeasible(unit)
            if reason:
                self.graph.fail(unit, attempt=0, ending="failed", error=reason, error_type="PlanError", trace="", host="")
            else:
                self.graph.link(unit)

    def abandon(self, group: str) -> None:
        """Nobody wants the group's nodes any more: what no other open node needs is cancelled, and keeps what it had saved."""
        self.graph.abandon(group)
        self._drop_unwanted()

    def fail(self) -> None:
        """What the guide was to do cannot be done: the run has failed, and starts no more unless it keeps going."""
        self.graph.has_failed = True

    def note(self, kind: str, **details: Any) -> None:
        """Emit an event of the guide's own, in order with the others."""
        self._events.append({"type": kind, **details})

    # The loop

    def drive(self) -> State:
        """Run to the end; returns DONE, FAILED or CANCELLED. Raises PlanError before anything runs if a node fits nowhere."""
        self._refuse_infeasible()
        while True:
            self._heed_cancel()
            self._heed_cancels()
            num_changes = self.graph.num_changes
            self._more_may_come = more_may_come = self.guide.advance(self)
            self._heed_machines()
            self._wake_waiting()
            while self.graph.ready:
                self._make_ready(self.graph.ready.popleft())
            self._drop_unwanted()
            self._heed_budget()
            if not self.is_ending:
                self._admit()
            self._flush()
            if not self.running and (self.is_ending or not (self._waiting or self.admission.is_asked or more_may_come)):
                break
            guide_has_news = more_may_come and self.graph.num_changes != num_changes
            ended = self.executor.poll(
                0.0 if guide_has_news else self._waiting.timeout_s(self.options.tick_s), meanwhile=self._look
            )
            if self._look_error is not None:
                raise self._look_error
            self._heed_cancel()  # an executor that blocks this loop may have stopped its node for it
            for work, outcome in ended:
                self._handle(self.units[work.label], work, outcome)
            self._stopping.stop_overdue(self.running.values())
            self._flush()
            self.executor.show(self.graph.count_states)
            self.tick()
        self.executor.show(self.graph.count_states, is_final=True)
        return self._finish()

    def _heed_machines(self) -> None:
        """Count with the machines that there are; give up what none of them has been able to run for long."""
        machines = self.executor.machines()
        if machines is not self._machines:
            self._machines, self._machines_changed = machines, True
            self.admission.update(machines)
            self._event_of_machines(machines)
        if not self._machines_changed:
            return
        for label in self.admission.stranded(self.clock()):
            unit = self.units[label]
            why = self.admission.reason_infeasible(unit.node.asked.resources)
            self.admission.withdraw(label)
            self.graph.fail(unit, attempt=unit.attempt, ending="lost", error=f"the machines that could run it are gone: {why}",
                            error_type="ClusterError", trace="", host="")  # fmt: skip

    def _event_of_machines(self, machines: Sequence[MachineShape]) -> None:
        there = [each for each in machines if not each.is_expected]
        totals = {"cpus": sum(each.cpus for each in there), "gpus": sum(each.gpus for each in there)}
        self.note("machines_changed", machines=len(there), **totals)

    def _look(self) -> None:
        """Let the guide abandon what runs inside `poll`; its own failure must not pass for the stage's."""
        self._is_looking = True
        try:
            self._heed_cancels()
            self.guide.look(self)
        except Exception as error:  # noqa: BLE001 - raised again where the stage has ended
            self._look_error = error
            for label in self.running:
                self.executor.cancel(label)
        self._is_looking = False

    def _reason_infeasible(self, unit: Unit) -> str:
        if unit.state is not State.PENDING:
            return ""
        reason = self.admission.reason_infeasible(unit.node.asked.resources)
        return f'node "{unit.label}" can never run here: {reason}' if reason else ""

    def _refuse_infeasible(self) -> None:
        for unit in self.units.values():
            reason = self._reason_infeasible(unit)
            if reason:
                raise PlanError(
                    reason, next_step=f'ask for less under "resources" of node "{unit.node.node}", or use a larger machine'
                )

    def _make_ready(self, unit: Unit) -> None:
        if unit.state is not State.PENDING or unit.open_parents:  # closed, or an input was lost again, since it was queued
            return
        node = unit.node
        if node.when is not None:
            label, condition = node.when
            unmet = unmet_condition(condition, self.units[label].metrics)
            if unmet:
                self.graph.skip(unit, unmet)
                return
        if unit.maker:
            record = self.artifacts.find(node.spec.name, node.key)
            if record is not None:
                unit.cost_s = record.seconds
                self._done(unit, {**record.metrics, **record.measurements}, seconds=0.0, ending=Ending.SHARED, run=record.run)
                return
        self._queue(unit)

    def _queue(self, unit: Unit) -> None:
        unit.become(State.READY)
        need = self._gpu_need(unit, self.units) if 0 < unit.resources.gpus < 1 else None
        if need is not None:
            unit.larger = with_gpu_share(unit.resources, need, self.admission.machines)
        self.admission.add(unit.label, unit.resources)

    def _admit(self) -> None:
        for label in self.admission.admit(self.clock()):
            unit = self.units[label]
            unit.become(State.RUNNING)
            unit.attempt += 1
            unit.started_at = self.clock()
            unit.stop_asked_at = None
            self.running[label] = unit
            self.meter.start(unit.label, unit.resources, unit.started_at)
            workers = unit.resources.workers
            held = {"cpus": unit.resources.cpus * workers}
            if unit.resources.gpus:
                held["gpus"] = unit.resources.gpus * workers
            self._event("node_started", unit, attempt=unit.attempt, **held)
            work = order_for(unit, self.units, run=self.run, provenance=self.provenance)
            self.executor.submit(work, unit.resources)

    def _handle(self, unit: Unit, work: Work, outcome: Outcome) -> None:
        del self.running[unit.label]
        self.admission.release(unit.label)
        self.meter.stop(unit.label, self.clock())
        was_unwanted, unit.unwanted_at = unit.unwanted_at is not None, None
        if outcome.ending not in (Ending.SHARED, Ending.BUSY):
            unit.spent_s += outcome.seconds or self.clock() - unit.started_at
        match outcome.ending:
            case Ending.DONE | Ending.SHARED:
                unit.cost_s = outcome.seconds
                self._done(unit, outcome.metrics, seconds=outcome.seconds, ending=outcome.ending, size_bytes=outcome.size_bytes,
                           content_digest=outcome.content_digest, **outcome.origin(), **outcome.gpu_memory())  # fmt: skip
            case _ if was_unwanted and not self.graph.is_wanted(unit):
                self.graph.cancel(unit, **self._stopped(unit))
            case Ending.CANCELLED | Ending.LOST | Ending.LOST_NODE | Ending.PREEMPTED if (
                was_unwanted and self.cancelled_at is None
            ):
                unit.num_stopped += 1  # asked for again while it stopped: it goes on from what it saved
                self._event("attempt_stopped", unit, **self._stopped(unit))
                self._queue(unit)
            case Ending.BUSY:
                unit.attempt -= 1
                if unit.state is not State.BUSY and not unit.busy_wait_s:
                    self._event("node_waiting", unit, holder=outcome.holder)
                self._waiting.await_other(unit)
            case Ending.CANCELLED if self.cancelled_at is not None:
                self.graph.cancel(unit, **self._stopped(unit))
            case Ending.DAMAGED_INPUT if not unit.repaired_inputs and not self._lacks_existing(unit):
                details = self._failure_details(unit, work, outcome, FailureClass.DAMAGED_INPUT)
                self._event("attempt_failed", unit, **details, will_retry=True, delay_s=0.0)
                unit.attempt -= 1
                self.graph.make_inputs_again(unit, is_there=self._is_there)
            case _:
                self._attempt_failed(unit, work, outcome)

    def _lacks_existing(self, unit: Unit) -> bool:
        """Whether an input is gone that no node of the file makes, so that it cannot be made again."""
        given = [self.units[label] for label in unit.input_labels if self.units[label].node.existing is not None]
        return not all(self._is_there(parent) for parent in given)

    def _is_there(self, unit: Unit) -> bool:
        return self.artifacts.find(unit.node.spec.name, unit.node.key) is not None

    def _attempt_failed(self, unit: Unit, work: Work, outcome: Outcome) -> None:
        if self.cancelled_at is not None:
            self.graph.cancel(unit, **self._stopped(unit))
            return
        kind, decision = unit.decide_after(
            outcome, run=self.run, now_s=self.clock(), shapes=self.admission.machines, is_alone=self.executor.max_at_once == 1
        )
        details = self._failure_details(unit, work, outcome, kind) | ({"note": decision.note} if decision.note else {})
        self._event("attempt_failed", unit, **details, will_retry=decision.again, delay_s=decision.delay_s)
        if decision.again:
            self._waiting.delay(unit, decision.delay_s)
        else:
            self.graph.fail(unit, **details)

    def _stopped(self, unit: Unit) -> dict[str, Any]:
        """What an event says of an attempt that was stopped: what it held until then was spent, too."""
        return {"attempt": unit.attempt, "seconds": round(self.clock() - unit.started_at, 3)}

    def _failure_details(self, unit: Unit, work: Work, outcome: Outcome, kind: FailureClass) -> dict[str, Any]:
        return {**unit.failure_details(outcome, kind=kind, now_s=self.clock()), "log_tail": list(self.log_tail(work))}

    def _done(self, unit: Unit, metrics: Mapping[str, Any], *, seconds: float, ending: Ending, **details: Any) -> None:
        unit.metrics = metrics
        unit.origin = Origin.MADE if ending is Ending.DONE else Origin.SHARED
        self._event("node_done", unit, ending=ending.value, seconds=seconds, metrics=dict(metrics), **details)
        self.graph.done(unit)

    def _drop_unwanted(self) -> None:
        """Cancel what nobody wants: at once what does not run, and what runs by asking it to stop."""
        for unit in self.graph.take_unwanted():
            if unit.state is State.RUNNING:
                self._stopping.drop(unit)
                continue
            if unit.state is State.READY:
                self.admission.withdraw(unit.label)
            self._waiting.drop(unit.label)
            self.graph.cancel(unit)

    def _wake_waiting(self) -> None:
        for unit, record in self._waiting.take_due():
            if record is None:
                self._queue(unit)
                continue
            unit.cost_s = record.seconds
            self._done(unit, {**record.metrics, **record.measurements}, seconds=record.seconds, ending=Ending.SHARED,
                       run=record.run)  # fmt: skip

    def _heed_cancel(self) -> None:
        if self._stopping.heed_cancel(self.running):
            self.note("run_stopping", why="asked to stop")

    def _heed_cancels(self) -> None:
        """Give up the nodes and trials that somebody asked to stop, and what needs them; the rest of the run goes on."""
        for name in self.cancels_asked():
            if self.graph.give_up(name):
                self.note("cancel_asked", name=name)
                self._drop_unwanted()

    def _heed_budget(self) -> None:
        """Start nothing more where the budget is spent and something is left to do; what runs may end."""
        budget = self.options.budget
        if budget is None or self.is_ending:
            return
        spent = self.meter.spent(self.clock())
        over = exceeded(budget, spent, self.options.prices)
        if over and (self._more_may_come or self.graph.num_open > len(self.running)):
            self.over_budget = over
            self.note("budget_reached", spent=spent.measures(self.options.prices), budget=budget.limits, over=over)

    def _finish(self) -> State:
        left = [unit for unit in self.units.values() if unit.is_open]
        if self.cancelled_at is not None:
            for unit in left:
                unit.become(State.CANCELLED)
            return State.CANCELLED
        if self.over_budget and (left or self._more_may_come):
            for unit in left:
                unit.become(State.CANCELLED)
            return State.CANCELLED
        if not self.is_ending:
            assert not left, f"the run ended before these nodes did: {[unit.label for unit in left]}"
        if self.graph.has_failed:
            return State.FAILED
        is_incomplete = any(unit.state is State.CANCELLED and not unit.group.name for unit in self.units.values())
        return State.CANCELLED if is_incomplete else State.DONE

    def _event(self, kind: str, unit: Unit, **details: Any) -> None:
        self.note(kind, node=unit.label, key=unit.node.key, **details)

    def _flush(self) -> None:
        if self._events:
            events, self._events = self._events, []
            self.emit(events)
