"""A run as a job on a cluster: checked, sent, followed through the ledger. The cluster drives it, not this process."""

from __future__ import annotations

import shlex
import time

from orchestrator import api
from orchestrator.cli.asked import Asked, tell_left_out
from orchestrator.cli.ending import tell_end
from orchestrator.cli.following import EXIT_UNMET, detached, exit_code, left_alone, watch
from orchestrator.cli.placing import Where
from orchestrator.cli.shell import Shell
from orchestrator.engine.code_package import code_package
from orchestrator.engine.hosts import refuse_private_store
from orchestrator.engine.jobs import Jobs
from orchestrator.errors import ClusterError, OrchestratorError
from orchestrator.report.found_sweeps import found_sweeps
from orchestrator.report.run_status import FINAL_STATES, RunStatus, read_run_status

LOOK_AT_JOB_EVERY_S = 2.0
MAX_LOOKED_AT = 20


def run_on_cluster(shell: Shell, plan: api.Plan, where: Where, asked: Asked) -> int:
    """Have the cluster run a plan that has work to do, and follow it; its exit code. With `where.detach`: 0 once it is there.

    Raises ClusterError where the cluster cannot be used, before anything is recorded or sent.
    """
    workspace, jobs = shell.workspace, Jobs(where.jobs_address)
    jobs.check()
    hosts = jobs.hosts()
    refuse_private_store(workspace.store.url, hosts, is_shared=where.place.store_is_shared)
    if workspace.store.caution() and len(set(hosts)) > 1:
        raise ClusterError(
            f"{workspace.store.caution()}: one machine may write to it, and the cluster has {len(set(hosts))}",
            next_step="a bucket on a server with conditional writes: orchestrator doctor --store s3://bucket/prefix",
        )
    run = _the_same_run(workspace, plan, jobs.address)
    if run:
        if asked.idempotency_key:
            api.bind_key(run, asked.idempotency_key, workspace=workspace)
        shell.say(f"run {run} on {jobs.address} is doing this already")
        tell_left_out(shell, asked, run)
    else:
        run = _begin(shell, plan, where, jobs, asked)
        shell.say(f"run {run} is a job on {jobs.address}; this terminal is not needed for it")
    return left_alone(shell, run) if where.detach else _follow(shell, plan, run, jobs)


def _the_same_run(workspace: api.Workspace, plan: api.Plan, address: str) -> str:
    """A run of the very same on this cluster that has not ended: submitting twice attaches to it."""
    loaded = plan.checked.loaded
    asked = (loaded.text, list(loaded.overrides), {name: list(names) for name, names in vars(plan.selection).items()})
    for request in workspace.ledger.runs()[:MAX_LOOKED_AT]:
        content = request.content
        cluster = content.get("cluster", {})
        is_same = asked == (content["text"], content["overrides"], content.get("selection"))
        is_here = cluster.get("is_job") and cluster.get("address") == address
        if is_same and is_here and read_run_status(workspace.store, request.id).state not in FINAL_STATES:
            return request.id
    return ""


def _begin(shell: Shell, plan: api.Plan, where: Where, jobs: Jobs, asked: Asked) -> str:
    workspace, place = shell.workspace, where.place
    uri = jobs.upload(code_package())
    run = api.enqueue(
        plan,
        workspace=workspace,
        address=jobs.address,
        store_is_shared=place.store_is_shared,
        **vars(asked),
    )
    store = workspace.store.url
    words = [where.python or jobs.interpreter(), "-m", "orchestrator.cli.job", "--store", store, "--run", run]
    words += ["--ray", jobs.ray_address()] if jobs.ray_address() else []
    words += ["--store-is-shared"] if place.store_is_shared else []
    try:
        jobs.submit(
            run,
            command=shlex.join(words),
            runtime_env={"working_dir": uri, "env_vars": dict(where.environment or {})},
            labels={"orchestrator_run": run, "workflow": plan.name, "store": store},
        )
    except OrchestratorError as error:
        workspace.ledger.write(run, [{"type": "run_finished", "state": "failed", "seconds": 0.0, "error": error.message}])
        raise
    workspace.ledger.write(run, [{"type": "job_submitted", "address": jobs.address, "job": run}])
    return run


def _follow(shell: Shell, plan: api.Plan, run: str, jobs: Jobs) -> int:
    workspace = shell.workspace
    looked_s = time.monotonic()

    def look(status: RunStatus) -> None:
        nonlocal looked_s
        if time.monotonic() - looked_s > LOOK_AT_JOB_EVERY_S:
            _close_if_driver_is_gone(workspace, status, jobs)
            looked_s = time.monotonic()

    status = watch(shell, read_run_status(workspace.store, run), look=look)
    if status is None:
        return detached(shell, run)
    if status.state == "interrupted":
        shell.insist(*(f"   {line}" for line in _last_lines(jobs, run)))
        raise ClusterError(
            f"run {run} on {jobs.address} ended without a word: {status.error or 'nobody drives it any more'}",
            next_step="when the cause is mended, submit the same again: it continues",
        )
    unmet = {}
    if status.state == "done":
        unmet = {
            found.name: found.sweep.verdict
            for found in (found_sweeps(status, workspace.artifacts) if plan.checked.sweeps else [])
            if found.is_settled and found.sweep.best is None
        }
    code = exit_code(status.state, over_budget=status.over_budget)
    code = EXIT_UNMET if code == 0 and unmet else code
    result = api.RunResult(run=run, state=api.State(status.state), status=status, unmet=unmet)
    if status.state == "failed" and status.error and not any(node.state == "failed" for node in status.nodes.values()):
        shell.insist(f"{shell.err_style.paint('error:', 'error')} {status.error}")
    tell_end(shell, plan, result, exit_code=code)
    return code


def _close_if_driver_is_gone(workspace: api.Workspace, status: RunStatus, jobs: Jobs) -> None:
    """Where the cluster says that the job is over and the ledger does not: write down that nobody drives the run any more.

    From elsewhere that could not be told from a driver that is only slow.
    """
    try:
        job = jobs.state(status.id)
    except ClusterError:
        return  # it may come back; the ledger still tells what happens
    if not job.is_over or read_run_status(workspace.store, status.id).state in FINAL_STATES:
        return
    if not job.status and not workspace.ledger.events(status.id)[0]:
        return  # recorded, and still being sent by another process
    message = " ".join(job.message.partition(", last available logs")[0].split())
    why = f"its job is {job.status} ({message})" if job.status else "the cluster knows no such job any more"
    workspace.ledger.write(status.id, [{"type": "run_finished", "state": "interrupted", "seconds": 0.0, "error": why}])


def _last_lines(jobs: Jobs, run: str) -> list[str]:
    try:
        return jobs.last_lines(run)
    except ClusterError:
        return []
