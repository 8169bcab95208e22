"""From a recorded request to the end of its run: executor, scheduler, signals, and what is written of it.

The same whether the process that asked for the run drives it, or a job on a cluster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.engine.run_options import Event, RunOptions
from orchestrator.engine.units import State
from orchestrator.errors import OrchestratorError, StoreError
from orchestrator.report.run_status import RunStatus, read_run_status
from orchestrator.store.artifacts import Artifacts
from orchestrator.store.base import Store
from orchestrator.store.lease import Leases
from orchestrator.store.ledger import Ledger
from orchestrator.workflow.plan import Plan
from orchestrator.workflow.sweep_result import SweepResult
from stages.contract import Throttle

if TYPE_CHECKING:
    from orchestrator.engine.executors.base import Executor, MachineShape
    from orchestrator.engine.learning import Learning
    from orchestrator.engine.signals import StopRequests

LOOK_FOR_CANCELS_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """How a run ended: its id, its final state, and its status as the ledger has it.

    `unmet`: by sweep, why none of its trials was good enough; the run is done all the same. `not_told`: why notices that the
    workflow asks for did not arrive.
    """

    run: str
    state: State
    status: RunStatus
    signal_number: int = 0
    unmet: Mapping[str, str] = field(default_factory=dict)
    not_told: Sequence[str] = ()


class Watcher:
    """What wants to see a run while it goes on; the default sees nothing. See `orchestrator.cli` for one that prints."""

    def started(self, status: RunStatus) -> None:
        """The run has its id."""

    def happened(self, events: Sequence[Event], status: RunStatus) -> None:
        """Something happened; `status` has it folded in."""

    def tick(self, status: RunStatus) -> None:
        """A few times a second while nodes run."""


def drive(  # noqa: PLR0915 - one attempt with all its ends
    plan: Plan,
    *,
    run: str,
    store: Store,
    leases: Leases,
    make_executor: Callable[[StopRequests], Executor],
    replan: Callable[[Mapping[str, SweepResult]], Plan],
    options: RunOptions,
    watcher: Watcher,
    provenance: Mapping[str, Any] | None = None,
) -> RunResult:
    """Run what the plan has to run. The caller holds the lease of the run, and gives it back.

    `provenance` is that of the process which asked for the run; left out, of this one. Raises OrchestratorError where the run
    could not go on; the ledger then says that it failed.
    """
    from orchestrator.engine.notices import Notices

    ledger = Ledger(store)
    status = read_run_status(store, run)
    status.state = "running"
    watcher.started(status)
    started_s = time.monotonic()
    notices = Notices(plan.checked.loaded.workflow, run=run, ledger=ledger)
    learning: Learning | None = None

    def emit(events: list[Event]) -> None:
        ledger.write(run, events)
        status.apply(events)
        if learning is not None:
            learning.happened(events)
        notices.happened(events)
        watcher.happened(events, status)

    if not plan.has_work:
        emit([{"type": "run_started"}, {"type": "run_finished", "state": State.DONE.value, "seconds": 0.0}])
        _tidy(store, leases, status)
        unmet = unmet_sweeps(_settled(plan))
        return RunResult(run=run, state=State.DONE, status=status, unmet=unmet, not_told=notices.ended("done", unmet=unmet))

    from orchestrator.engine.learning import Learning
    from orchestrator.engine.scheduler import Scheduler
    from orchestrator.engine.signals import StopRequests
    from orchestrator.sweeps.driver import RunContext, SweepGuide

    learning = Learning(store, run=run, began=status.created)
    emit([{"type": "run_started"}])
    state, error = State.FAILED, ""
    stop = StopRequests()
    chosen, guide = None, None
    try:
        with stop.heeded():
            chosen = make_executor(stop)
            provenance = provenance or _provenance()
            context = RunContext(
                run=run, artifacts=Artifacts(store), ledger=ledger, clock=time.monotonic, provenance=provenance
            )
            look_for_cancels = Throttle(LOOK_FOR_CANCELS_EVERY_S)
            guide = SweepGuide(plan, context=context, replan=replan)
            scheduler = Scheduler(
                plan,
                run=run,
                executor=chosen,
                shapes=_start(chosen, emit),
                artifacts=Artifacts(store),
                leases=leases,
                clock=time.monotonic,
                emit=emit,
                tick=lambda: watcher.tick(status),
                is_cancel_asked=lambda: stop.asked or ledger.is_cancel_asked(run),
                grace_asked_s=lambda: ledger.grace_asked_s(run),
                cancels_asked=lambda: ledger.cancels_asked(run) if look_for_cancels.ready() else (),
                options=options,
                provenance=provenance,
                guide=guide,
                log_tail=lambda work: ledger.log_tail(work.run, work.folder, work.attempt),
                gpu_need=learning.gpu_need,
            )
            learning.watch(scheduler.units)
            stop.install()
            state = scheduler.drive()
            if guide.failures and state is not State.CANCELLED:
                state, error = State.FAILED, guide.failure_text
            elif state is State.CANCELLED and scheduler.over_budget:
                error = f"the budget is spent: {scheduler.over_budget}"
    except KeyboardInterrupt:
        state, error = State.CANCELLED, "stopped without waiting for the stages"
        stop.signal_number = stop.signal_number or 2
    except Exception as problem:
        error = problem.message if isinstance(problem, OrchestratorError) else f"{type(problem).__name__}: {problem}"
        raise
    finally:
        try:
            if chosen is not None:
                chosen.close()
        finally:
            try:
                emit([{"type": "run_finished", "state": state.value, "seconds": time.monotonic() - started_s, "error": error}])
            finally:
                if learning is not None:
                    learning.close()
                _tidy(store, leases, status)
            unmet = unmet_sweeps(guide.results) if guide is not None and state is State.DONE else {}
            not_told = notices.ended(state.value, unmet=unmet, error=error)
    return RunResult(run=run, state=state, status=status, signal_number=stop.signal_number, unmet=unmet, not_told=not_told)


def unmet_sweeps(results: Mapping[str, SweepResult]) -> dict[str, str]:
    """By sweep, why no trial was good enough."""
    return {name: result.verdict for name, result in results.items() if result.best is None}


def _start(executor: Executor, emit: Callable[[list[Event]], None]) -> tuple[MachineShape, ...]:
    shapes = executor.start()
    url, token_file = executor.dashboard
    if url:
        emit([{"type": "dashboard_ready", "url": url, "token_file": token_file}])
    return shapes


def _provenance() -> dict[str, Any]:
    from orchestrator.engine.provenance import command_provenance

    return command_provenance()


def _settled(plan: Plan) -> dict[str, SweepResult]:
    return {name: sweep.result for name, sweep in plan.sweeps.items() if sweep.result is not None}


def _tidy(store: Store, leases: Leases, status: RunStatus) -> None:
    """Remove what killed processes left."""
    from orchestrator.engine.worker import tidy

    finished = {node.key for node in status.nodes.values() if node.state in ("hit", "done")}
    with suppress(StoreError):  # the run has ended as it has; the next one tidies up
        tidy(store, leases, finished)
