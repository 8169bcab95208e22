"""The Python face: load, plan, submit, status, cancel. Importing it loads neither torch nor ray.

plan = orchestrator.api.plan("workflows/vit_compress.yaml", workspace=open_workspace())
result = orchestrator.api.submit(plan, workspace=workspace)
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator.engine.executors.base import Executor, MachineShape
from orchestrator.engine.notices import Notices
from orchestrator.engine.scheduler import Event, RunOptions, Scheduler
from orchestrator.engine.signals import StopRequests
from orchestrator.engine.units import State
from orchestrator.errors import AlreadySubmitted, Interrupted, OrchestratorError, StoreError
from orchestrator.report.run_status import FINAL_STATES, RunStatus, read_run_status
from orchestrator.store.artifacts import Artifacts
from orchestrator.store.base import Store, open_store
from orchestrator.store.blobs import digest_bytes
from orchestrator.store.lease import Leases
from orchestrator.store.ledger import Ledger
from orchestrator.sweeps.driver import RunContext, SweepGuide
from orchestrator.workflow.check import CheckedWorkflow, check_workflow
from orchestrator.workflow.identity import encode
from orchestrator.workflow.load import load_text, load_workflow
from orchestrator.workflow.plan import Plan, PlanNode, Selection, Status
from orchestrator.workflow.planning import make_plan
from orchestrator.workflow.sweep_result import SweepResult

ExecutorName = Literal["ray", "inline"]


@dataclass(frozen=True)
class Workspace:
    """One store, and what is read from it."""

    store: Store

    @property
    def artifacts(self) -> Artifacts:
        return Artifacts(self.store)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.store)


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


def open_workspace(store_url: str | None = None) -> Workspace:
    """The workspace of a store: a folder, `.orchestrator` here by default."""
    return Workspace(open_store(store_url))


def load(file: str | Path, *, overrides: Sequence[str] = (), smoke: bool = False) -> CheckedWorkflow:
    """Read and check a workflow file; raises WorkflowError with every problem in it.

    `smoke` makes it tiny, to try it out (see `orchestrator.workflow.smoke`); `overrides` stand above that.
    """
    checked = check_workflow(load_workflow(Path(file), overrides=overrides))
    if not smoke:
        return checked
    from orchestrator.workflow.smoke import smoke_overrides

    return check_workflow(load_text(checked.loaded.text, file=str(file), overrides=[*smoke_overrides(checked), *overrides]))


def plan(
    file: str | Path,
    *,
    workspace: Workspace,
    overrides: Sequence[str] = (),
    selection: Selection | None = None,
    smoke: bool = False,
) -> Plan:
    """The plan of a workflow file against the store. Reads only."""
    return plan_checked(load(file, overrides=overrides, smoke=smoke), workspace=workspace, selection=selection)


def plan_checked(checked: CheckedWorkflow, *, workspace: Workspace, selection: Selection | None = None) -> Plan:
    """The plan of a checked workflow against the store. Reads only."""
    return _plan_given(checked, workspace, selection or Selection(), results={})


def load_recorded(run: str, *, workspace: Workspace, overrides: Sequence[str] = ()) -> CheckedWorkflow:
    """The workflow that a run was asked for, as the ledger has it, with its overrides and further ones.

    WorkflowError where this release cannot read it any more; UsageError where there is no such run.
    """
    content = workspace.ledger.request(run).content
    return check_workflow(load_text(content["text"], file=content["file"], overrides=[*content["overrides"], *overrides]))


def selection_recorded(run: str, *, workspace: Workspace) -> Selection:
    """Which nodes a run was asked for, by its request."""
    asked = workspace.ledger.request(run).content.get("selection", {})
    return Selection(**{name: tuple(names) for name, names in asked.items()})


def plan_recorded(run: str, *, workspace: Workspace, overrides: Sequence[str] = (), selection: Selection | None = None) -> Plan:
    """The plan of what a run was asked for against what the store holds now. Reads only."""
    checked = load_recorded(run, workspace=workspace, overrides=overrides)
    chosen = selection if selection is not None else selection_recorded(run, workspace=workspace)
    return plan_checked(checked, workspace=workspace, selection=chosen)


def _plan_given(
    checked: CheckedWorkflow, workspace: Workspace, selection: Selection, *, results: Mapping[str, SweepResult]
) -> Plan:
    find_holder = Leases(workspace.store, run="").holders()

    def is_being_made(key: str) -> str | None:
        holder = find_holder(key)
        return holder.run if holder is not None else None

    return make_plan(checked, workspace.artifacts, selection=selection, is_being_made=is_being_made, results=results)


def submit(
    plan: Plan,
    *,
    workspace: Workspace,
    executor: ExecutorName | Callable[[str], Executor] = "ray",
    options: RunOptions | None = None,
    watcher: Watcher | None = None,
    tags: Mapping[str, str] | None = None,
    dashboard: bool = False,
    origin: Mapping[str, str] | None = None,
    idempotency_key: str = "",
) -> RunResult:
    """Run what the plan has to run, and return when all has ended.

    Nothing is started where nothing is to do. SIGINT and SIGTERM ask the run to stop at its next safe points; what was
    finished stays, and submitting the same file again continues. `executor` may be a function from the run's id to an
    executor of one's own. `dashboard` starts Ray's with it, on loopback. `origin` says what the plan was made from where that
    is not the file as it is: `{"continues": RUN}` (see `plan_recorded`), `{"plan_file": PATH}`, `{"smoke": "true"}`. With an
    `idempotency_key` that a run of this store was begun with before, AlreadySubmitted names that run, and nothing is begun.
    """
    leases = Leases(workspace.store, run="")
    options = options or RunOptions()
    request = _request(plan, executor, options, tags or {}, origin or {}) | (
        {"idempotency_key": idempotency_key} if idempotency_key else {}
    )
    try:
        return _submit(plan, workspace, leases, executor, options, watcher or Watcher(), request, dashboard=dashboard)
    finally:
        with suppress(StoreError):  # without a beat they do not look alive for long
            leases.close()


def _submit(
    plan: Plan,
    workspace: Workspace,
    leases: Leases,
    executor: ExecutorName | Callable[[str], Executor],
    options: RunOptions,
    watcher: Watcher,
    request: Mapping[str, Any],
    *,
    dashboard: bool,
) -> RunResult:
    ledger = workspace.ledger
    run, status = _begin(request, workspace, leases)
    watcher.started(status)
    started_s = time.monotonic()

    notices = Notices(plan.checked.loaded.workflow, run=run, ledger=ledger)

    def emit(events: list[Event]) -> None:
        ledger.write(run, events)
        status.apply(events)
        notices.happened(events)
        watcher.happened(events, status)

    if not plan.has_work:
        emit([{"type": "run_started"}, {"type": "run_finished", "state": State.DONE.value, "seconds": 0.0}])
        _tidy(workspace.store, leases, status)
        unmet = _unmet(_settled(plan))
        return RunResult(run=run, state=State.DONE, status=status, unmet=unmet, not_told=notices.ended("done", unmet=unmet))

    emit([{"type": "run_started"}])
    state, error = State.FAILED, ""
    stop = StopRequests()
    chosen, guide = None, None
    try:
        with stop.heeded():
            chosen = _executor(executor, workspace.store, run, stop, workflow=plan.name, dashboard=dashboard)
            provenance = _provenance()
            guide = _guide(plan, workspace, run, provenance=provenance)
            scheduler = Scheduler(
                plan,
                run=run,
                executor=chosen,
                shapes=_start(chosen, emit),
                artifacts=workspace.artifacts,
                leases=leases,
                clock=time.monotonic,
                emit=emit,
                tick=lambda: watcher.tick(status),
                is_cancel_asked=lambda: stop.asked or ledger.is_cancel_asked(run),
                options=options,
                provenance=provenance,
                guide=guide,
                log_tail=lambda work: ledger.log_tail(work.run, work.folder, work.attempt),
            )
            stop.install()
            state = scheduler.drive()
            if guide.failures and state is not State.CANCELLED:
                state, error = State.FAILED, guide.failure_text
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
                _tidy(workspace.store, leases, status)
            unmet = _unmet(guide.results) if guide is not None and state is State.DONE else {}
            not_told = notices.ended(state.value, unmet=unmet, error=error)
    return RunResult(run=run, state=state, status=status, signal_number=stop.signal_number, unmet=unmet, not_told=not_told)


def _start(executor: Executor, emit: Callable[[list[Event]], None]) -> tuple[MachineShape, ...]:
    shapes = executor.start()
    url, token_file = executor.dashboard
    if url:
        emit([{"type": "dashboard_ready", "url": url, "token_file": token_file}])
    return shapes


def _begin(request: Mapping[str, Any], workspace: Workspace, leases: Leases) -> tuple[str, RunStatus]:
    """Record a run, with a lease on it from before it can be seen."""

    def claim(run: str) -> None:
        leases.run = run
        leases.acquire(f"run-{run}")
        key = request.get("idempotency_key")
        if key:
            asked = digest_bytes(encode({name: request[name] for name in ("text", "overrides", "selection")}))
            standing, before = workspace.ledger.claim_submission(digest_bytes(key.encode()), run, asked=asked)
            if standing != run:
                raise AlreadySubmitted(standing, is_same=before == asked)

    run = workspace.ledger.begin(request, claim=claim)
    status = read_run_status(workspace.store, run)
    status.state = "running"
    return run, status


def _provenance() -> dict[str, Any]:
    from orchestrator.engine.provenance import command_provenance

    return command_provenance()


def _guide(plan: Plan, workspace: Workspace, run: str, *, provenance: Mapping[str, Any]) -> SweepGuide:
    """What drives the plan's sweeps, and plans again what waits for them."""
    return SweepGuide(
        plan,
        context=RunContext(
            run=run, artifacts=workspace.artifacts, ledger=workspace.ledger, clock=time.monotonic, provenance=provenance
        ),
        replan=lambda results: _plan_given(plan.checked, workspace, plan.selection, results=results),
    )


def _settled(plan: Plan) -> dict[str, SweepResult]:
    return {name: sweep.result for name, sweep in plan.sweeps.items() if sweep.result is not None}


def _unmet(results: Mapping[str, SweepResult]) -> dict[str, str]:
    return {name: result.verdict for name, result in results.items() if result.best is None}


def status(run: str, *, workspace: Workspace) -> RunStatus:
    """The status of a run, named by its id, a unique beginning of it, or @last."""
    return read_run_status(workspace.store, workspace.ledger.resolve(run))


def cancel(run: str, *, workspace: Workspace, wait_s: float = 60.0) -> RunStatus:
    """Ask a run to stop and wait until it has; raises Interrupted if it is still running after `wait_s` seconds."""
    found = status(run, workspace=workspace)
    if found.state in FINAL_STATES:
        return found
    workspace.ledger.ask_to_cancel(found.id)
    deadline_s = time.monotonic() + wait_s
    while found.state not in FINAL_STATES:
        if time.monotonic() > deadline_s:
            raise Interrupted(
                f"run {found.id} was asked to stop and is still running", next_step=f"orchestrator status {found.id}"
            )
        time.sleep(0.1)
        found = status(found.id, workspace=workspace)
    return found


def _tidy(store: Store, leases: Leases, status: RunStatus) -> None:
    """Remove what killed processes left."""
    from orchestrator.engine.worker import tidy

    finished = {node.key for node in status.nodes.values() if node.state in ("hit", "done")}
    with suppress(StoreError):  # the run has ended as it has; the next one tidies up
        tidy(store, leases, finished)


def _executor(
    choice: ExecutorName | Callable[[str], Executor],
    store: Store,
    run: str,
    stop: StopRequests,
    *,
    workflow: str,
    dashboard: bool,
) -> Executor:
    if callable(choice):
        return choice(run)
    if choice == "inline":
        from orchestrator.engine.executors.inline import InlineExecutor

        return InlineExecutor(store, run=run, is_stop_asked=lambda: stop.asked)
    from orchestrator.engine.executors.ray import RayExecutor

    return RayExecutor(store, run=run, workflow=workflow, dashboard=dashboard)


def _request(
    plan: Plan, executor: Any, options: RunOptions, tags: Mapping[str, str], origin: Mapping[str, str]
) -> dict[str, Any]:
    loaded = plan.checked.loaded
    return {
        "workflow": plan.name,
        "file": loaded.file,
        "text": loaded.text,
        "overrides": list(loaded.overrides),
        "command": sys.argv[0:1] + sys.argv[1:],
        "executor": executor if isinstance(executor, str) else "own",
        "keep_going": options.keep_going,
        "tags": dict(tags),
        "process_id": os.getpid(),
        "selection": vars(plan.selection),
        **({"origin": dict(origin)} if origin else {}),
        "plan": [[node.label, node.node, node.spec.name, node.key, node.status.value] for node in plan.nodes.values()],
    }


__all__ = [
    "CheckedWorkflow", "Plan", "PlanNode", "RunOptions", "RunResult", "RunStatus", "Selection", "State", "Status", "Watcher",
    "Workspace", "cancel", "load", "load_recorded", "open_workspace", "plan", "plan_checked", "plan_recorded",
    "selection_recorded", "status", "submit",
]  # fmt: skip
