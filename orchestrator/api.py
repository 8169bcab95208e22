"""The Python face: load, plan, submit, status, cancel. Importing it loads neither torch nor ray.

plan = orchestrator.api.plan("workflows/vit_compress.yaml", workspace=open_workspace())
result = orchestrator.api.submit(plan, workspace=workspace)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.driving import RunResult, Watcher, drive
from orchestrator.engine.place import RayPlace
from orchestrator.engine.run_options import RunOptions, options_recorded
from orchestrator.engine.units import State
from orchestrator.errors import (
    ClusterError,
    Interrupted,
    OrchestratorError,
    StoreError,
    UsageError,
    WorkflowError,
)
from orchestrator.report.run_status import FINAL_STATES, RunStatus, read_run_status
from orchestrator.requests import claim_key, make_request, note_what_is_there_by_now, refuse_other_keys, within_budget
from orchestrator.store.artifacts import Artifacts
from orchestrator.store.base import Store, open_store
from orchestrator.store.lease import Holder, Leases
from orchestrator.store.ledger import Ledger
from orchestrator.workflow.budget import NOTHING, Hours
from orchestrator.workflow.check import CheckedWorkflow, check_workflow
from orchestrator.workflow.load import load_text, load_workflow
from orchestrator.workflow.plan import Plan, PlanNode, Selection, Status
from orchestrator.workflow.planning import make_plan
from orchestrator.workflow.sweep_result import SweepResult

if TYPE_CHECKING:
    from orchestrator.engine.executors.base import Executor
    from orchestrator.engine.signals import StopRequests

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
    try:
        return check_workflow(load_text(content["text"], file=content["file"], overrides=[*content["overrides"], *overrides]))
    except WorkflowError as error:
        if overrides:
            raise
        note = f"this is the workflow as run {run} recorded it, which a change of the file does not reach"
        again = f"orchestrator submit {content['file']}, with that changed in it: what is finished is not made again"
        raise WorkflowError([replace(problem, note=note, next_step=again) for problem in error.problems]) from None


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
    place: RayPlace | None = None,
    origin: Mapping[str, str] | None = None,
    idempotency_key: str = "",
) -> RunResult:
    """Run what the plan has to run, and return when all has ended.

    Nothing is started where nothing is to do. SIGINT and SIGTERM ask the run to stop at its next safe points; what was
    finished stays, and submitting the same file again continues. `executor` may be a function from the run's id to an
    executor of one's own. `place` says on which Ray; left out, one of the run's own. `origin` says what the plan was made from
    where that is not the file as it is: `{"continues": RUN}` (see `plan_recorded`), `{"plan_file": PATH}`, `{"smoke": "true"}`.
    With an `idempotency_key` that a run of this store was begun with before, AlreadySubmitted names it, and nothing is begun.
    """
    leases = Leases(workspace.store, run="")
    options, place = within_budget(plan, workspace.artifacts, options), place or RayPlace()
    request = make_request(plan, executor, options, tags or {}, origin or {}, idempotency_key)
    if place.address and plan.has_work:
        request["cluster"] = {"address": place.address, "store_is_shared": place.store_is_shared}

    def claim(run: str) -> None:
        leases.run = run
        leases.acquire(f"run-{run}")
        claim_key(request, run, workspace.ledger)

    try:
        run = workspace.ledger.begin(request, claim=claim)
        return _drive(plan, run, workspace, leases, executor, options, watcher, place)
    finally:
        with suppress(StoreError):  # without a beat they do not look alive for long
            leases.close()


def enqueue(
    plan: Plan,
    *,
    workspace: Workspace,
    address: str,
    store_is_shared: bool = False,
    options: RunOptions | None = None,
    tags: Mapping[str, str] | None = None,
    origin: Mapping[str, str] | None = None,
    idempotency_key: str = "",
) -> str:
    """Record a run that a job on the cluster at `address` is to drive (see `drive_recorded`), and return its id.

    AlreadySubmitted as for `submit`.
    """
    from orchestrator.engine.provenance import command_provenance

    options = within_budget(plan, workspace.artifacts, options)
    request = make_request(plan, "ray", options, tags or {}, origin or {}, idempotency_key)
    cluster = {"address": address, "store_is_shared": store_is_shared, "is_job": True}
    ledger = workspace.ledger
    return ledger.begin(
        {**request, "cluster": cluster, "provenance": command_provenance()},
        claim=lambda run: claim_key(request, run, ledger),
    )


def bind_key(run: str, idempotency_key: str, *, workspace: Workspace) -> None:
    """Let an idempotency key stand for a run that goes on already; AlreadySubmitted where it stands for another."""
    ledger = workspace.ledger
    claim_key({**ledger.request(run).content, "idempotency_key": idempotency_key}, run, ledger)


def spent_so_far(run: str, *, workspace: Workspace) -> Hours:
    """What a run and those that it continued have spent, by their ledgers."""
    spent, seen = NOTHING, set[str]()
    while run and run not in seen:
        seen.add(run)
        found = read_run_status(workspace.store, run)
        spent += found.spent
        run = found.request.get("origin", {}).get("continues", "")
    return spent


def drive_recorded(run: str, *, workspace: Workspace, place: RayPlace, watcher: Watcher | None = None) -> RunResult:
    """Drive a run that `enqueue` recorded, as the entrypoint of its job does. What it raises, the ledger tells, too.

    UsageError where the run has ended; ClusterError where another process drives it; PlanError where this code would make
    other keys than the code that recorded it.
    """
    ledger = workspace.ledger
    leases = Leases(workspace.store, run=run)
    request = ledger.request(run).content
    try:
        if isinstance(leases.acquire(f"run-{run}"), Holder):
            raise ClusterError(f"run {run} is driven by another process already", next_step=f"orchestrator status {run}")
        found = read_run_status(workspace.store, run)
        if found.ended:
            raise UsageError(f"run {run} has ended: it is {found.state}", next_step=f"orchestrator resume {run}")
        try:
            plan = plan_recorded(run, workspace=workspace)
            refuse_other_keys(plan, request)
        except OrchestratorError as error:
            ledger.write(run, [{"type": "run_finished", "state": "failed", "seconds": 0.0, "error": error.message}])
            raise
        note_what_is_there_by_now(plan, request, run, ledger)
        options = options_recorded(request)
        return _drive(plan, run, workspace, leases, "ray", options, watcher, place, provenance=request.get("provenance"))
    finally:
        with suppress(StoreError):
            leases.close()


def _drive(
    plan: Plan,
    run: str,
    workspace: Workspace,
    leases: Leases,
    executor: ExecutorName | Callable[[str], Executor],
    options: RunOptions,
    watcher: Watcher | None,
    place: RayPlace,
    *,
    provenance: Mapping[str, Any] | None = None,
) -> RunResult:
    return drive(
        plan,
        run=run,
        store=workspace.store,
        leases=leases,
        make_executor=lambda stop: _executor(executor, workspace.store, run, stop, workflow=plan.name, place=place),
        replan=lambda results: _plan_given(plan.checked, workspace, plan.selection, results=results),
        options=options,
        watcher=watcher or Watcher(),
        provenance=provenance,
    )


def status(run: str, *, workspace: Workspace) -> RunStatus:
    """The status of a run, named by its id, a unique beginning of it, or @last."""
    return read_run_status(workspace.store, workspace.ledger.resolve(run))


def cancel(run: str, *, workspace: Workspace, wait_s: float = 60.0, grace_s: float | None = None) -> RunStatus:
    """Ask a run to stop and wait until it has; raises Interrupted if it is still running after `wait_s` seconds.

    Stages that run on `grace_s` seconds after that are killed; None: as the run itself holds it (10 s).
    """
    found = status(run, workspace=workspace)
    if found.state in FINAL_STATES:
        return found
    workspace.ledger.ask_to_cancel(found.id, grace_s=grace_s)
    deadline_s = time.monotonic() + wait_s
    while found.state not in FINAL_STATES:
        if time.monotonic() > deadline_s:
            raise Interrupted(
                f"run {found.id} was asked to stop and is still running", next_step=f"orchestrator status {found.id}"
            )
        time.sleep(0.1)
        found = status(found.id, workspace=workspace)
    return found


def _executor(
    choice: ExecutorName | Callable[[str], Executor],
    store: Store,
    run: str,
    stop: StopRequests,
    *,
    workflow: str,
    place: RayPlace,
) -> Executor:
    if callable(choice):
        return choice(run)
    if choice == "inline":
        from orchestrator.engine.executors.inline import InlineExecutor

        return InlineExecutor(store, run=run, is_stop_asked=lambda: stop.asked)
    from orchestrator.engine.executors.ray import RayExecutor

    return RayExecutor(store, run=run, workflow=workflow, place=place)


__all__ = [
    "CheckedWorkflow", "Plan", "PlanNode", "RayPlace", "RunOptions", "RunResult", "RunStatus", "Selection", "State", "Status",
    "Watcher", "Workspace", "bind_key", "cancel", "drive_recorded", "enqueue", "load", "load_recorded", "open_workspace",
    "plan", "plan_checked", "plan_recorded", "selection_recorded", "spent_so_far", "status", "submit",
]  # fmt: skip
