"""Runs on Ray: the same results as inline, and every way in which a process can die. One Ray serves the whole module."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from shared_ray import SharedRay
from virtual import trial_nodes

from orchestrator import api
from orchestrator.engine import cluster
from orchestrator.engine.scheduler import RunOptions, Scheduler
from orchestrator.engine.units import GroupState
from orchestrator.store.lease import Leases
from orchestrator.workflow.plan import Plan

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

HEAD = "version: 1\nname: w\nnodes:\n"
NUM_CPUS = 4


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    module = cluster.start_local(num_cpus=NUM_CPUS)
    yield module
    cluster.stop(module)


Run = Callable[..., tuple[api.RunResult, SharedRay]]


@pytest.fixture
def run_on_ray(ray: Any, workspace: api.Workspace, plan_text: Any) -> Run:
    def run(nodes: str, *, options: RunOptions | None = None, watcher: api.Watcher | None = None) -> Any:
        made: list[SharedRay] = []

        def executor(run: str) -> SharedRay:
            made.append(SharedRay(workspace.store, run, ray))
            return made[0]

        text = HEAD + "".join(f"  {line.strip()}\n" for line in nodes.strip().splitlines())
        result = api.submit(plan_text(text), workspace=workspace, executor=executor, options=options, watcher=watcher)
        return result, made[0]

    return run


class When(api.Watcher):
    """Does something once, in a thread, as soon as a node has started and `ready` holds."""

    def __init__(self, node: str, action: Callable[[api.RunStatus], None], ready: Callable[[], bool] = lambda: True) -> None:
        self.node, self.action, self.ready = node, action, ready
        self.thread: threading.Thread | None = None

    def happened(self, events: Any, status: Any) -> None:
        if any(event["type"] == "node_started" and event["node"] == self.node for event in events) and self.thread is None:
            self.thread = threading.Thread(target=self._act, args=(status,))
            self.thread.start()

    def _act(self, status: api.RunStatus) -> None:
        until_s = time.monotonic() + 60
        while not self.ready() and time.monotonic() < until_s:
            time.sleep(0.05)
        self.action(status)


def states(result: api.RunResult) -> dict[str, str]:
    return {label: node.state for label, node in result.status.nodes.items()}


def digests(workspace: api.Workspace, result: api.RunResult) -> dict[str, str]:
    found = {label: workspace.artifacts.find(node.stage, node.key) for label, node in result.status.nodes.items()}
    return {label: record.content_digest for label, record in found.items() if record is not None}


CHAIN = """
    a: {stage: probe.echo, params: {value: 1}}
    b: {stage: probe.bytes, params: {size: 300000}, inputs: {input: a}}
    c: {stage: probe.sleep, params: {seconds: 0.1}, inputs: {inputs: a}}
    d: {stage: probe.echo, params: {value: {deep: [1, 2.5, null]}}, inputs: {inputs: [b, c]}}
"""


def test_ray_makes_the_same_content_as_inline(run_on_ray: Run, workspace, plan_text, tmp_path) -> None:
    """Where a node runs must not show in what it makes."""
    result, executor = run_on_ray(CHAIN)
    assert set(states(result).values()) == {"done"}
    text = HEAD + "".join(f"  {line.strip()}\n" for line in CHAIN.strip().splitlines())
    elsewhere = api.open_workspace(str(tmp_path / "inline"))
    inline = api.submit(api.plan_checked(plan_text(text).checked, workspace=elsewhere), workspace=elsewhere, executor="inline")
    assert digests(workspace, result) == digests(elsewhere, inline)
    assert len(digests(workspace, result)) == 4
    assert executor.num_hosts <= 2, "hosts are reused"


def test_a_process_that_dies_is_replaced_and_its_node_tried_again(run_on_ray: Run) -> None:
    """Exit, a crash in native code, the kernel's OOM killer: all look alike, and none may fail the run."""
    retry = "retry: {attempts: 3, backoff: 10ms}"
    nodes = "\n".join(
        f"{mode}: {{stage: probe.fail, params: {{mode: {mode}, failures: 1}}, {retry}}}"
        for mode in ("exit", "kill", "segfault")
    )
    result, _ = run_on_ray(nodes + "\nlast: {stage: probe.echo, inputs: {inputs: [exit, kill, segfault]}}")
    assert set(states(result).values()) == {"done"}
    assert {result.status.nodes[mode].attempt for mode in ("exit", "kill", "segfault")} == {2}
    assert all(result.status.nodes[mode].metrics["num_failures"] == 1 for mode in ("exit", "kill", "segfault"))


def test_a_node_that_always_kills_its_process_fails_and_the_rest_goes_on(run_on_ray: Run) -> None:
    """Out of memory in every attempt: the user is told, with how often it was tried."""
    result, _ = run_on_ray(
        """
        bad: {stage: probe.fail, params: {mode: kill}, retry: {attempts: 2, backoff: 10ms}}
        below: {stage: probe.echo, inputs: {inputs: bad}}
        wrong: {stage: probe.fail, params: {mode: error}, retry: {attempts: 3, backoff: 10ms}}
        good: {stage: probe.echo, params: {value: 2}}
        """,
        options=RunOptions(keep_going=True),
    )
    assert result.state is api.State.FAILED
    assert states(result) == {"bad": "failed", "below": "blocked", "wrong": "failed", "good": "done"}
    bad, wrong = result.status.nodes["bad"], result.status.nodes["wrong"]
    assert (bad.attempt, bad.ending, wrong.attempt, wrong.ending) == (2, "lost", 1, "failed")
    assert (bad.failure_class, wrong.failure_class) == ("lost_worker", "user_error")
    assert "RuntimeError: probe.fail: attempt 1 fails on purpose" in wrong.trace


def test_a_host_killed_in_the_middle_goes_on_from_its_checkpoint(run_on_ray: Run, workspace) -> None:
    """At most the work since the last checkpoint is lost."""

    def kill(status: api.RunStatus) -> None:
        holder = Leases(workspace.store, run="test").holder(status.nodes["s"].key)
        assert holder is not None
        os.kill(holder.process_id, signal.SIGKILL)

    def has_saved() -> bool:
        return any(path.name.isdigit() for path in workspace.store.root.glob("work/checkpoints/*/*"))

    watcher = When("s", kill, has_saved)
    result, _ = run_on_ray(
        "s: {stage: probe.sleep, params: {seconds: 2.2}, retry: {attempts: 2, backoff: 10ms}}", watcher=watcher
    )
    node = result.status.nodes["s"]
    assert (node.state, node.attempt) == ("done", 2)
    assert node.metrics["num_steps_resumed"] >= 20


def test_a_preempted_host_saves_leaves_and_costs_no_attempt(run_on_ray: Run, workspace) -> None:
    """SIGTERM, as on a machine that is taken away: it goes on with the very next step, however few tries the file allows."""

    def preempt(status: api.RunStatus) -> None:
        holder = Leases(workspace.store, run="test").holder(status.nodes["s"].key)
        assert holder is not None
        os.kill(holder.process_id, signal.SIGTERM)

    def has_begun() -> bool:
        return any(path.name.isdigit() for path in workspace.store.root.glob("work/checkpoints/*/*"))

    watcher = When("s", preempt, has_begun)
    result, ray = run_on_ray(
        "s: {stage: probe.sleep, params: {seconds: 2.2}, retry: {attempts: 1, backoff: 10ms}}", watcher=watcher
    )
    node = result.status.nodes["s"]
    assert (node.state, node.attempt, ray.num_hosts) == ("done", 2, 2)
    assert node.metrics["num_steps_resumed"] >= 20
    events = {event["type"]: event for event in workspace.ledger.events(result.run)[0]}
    assert (events["attempt_failed"]["class"], events["attempt_failed"]["will_retry"]) == ("preempted", True)
    assert events["node_done"]["resumed"] == {"step": node.metrics["num_steps_resumed"], "from": "disk"}


def test_a_stage_out_of_memory_is_tried_with_more(run_on_ray: Run, workspace) -> None:
    """And the user is told with how much."""
    result, _ = run_on_ray(
        """
        a: {stage: probe.fail, params: {mode: memory, failures: 1}, resources: {memory: 64MiB}, retry: {backoff: 10ms}}
        """
    )
    assert (result.status.nodes["a"].state, result.status.nodes["a"].attempt) == ("done", 2)
    (failure,) = [event for event in workspace.ledger.events(result.run)[0] if event["type"] == "attempt_failed"]
    assert (failure["class"], failure["note"]) == ("out_of_memory", "attempt 2 will use memory 0.12GiB (policy oom: grow)")
    assert failure["log_tail"] == ["probe.fail: attempt 1"]


@pytest.mark.parametrize(
    ("node", "loses"),
    [("{stage: probe.sleep, params: {seconds: 60}}", False), ("{stage: probe.fail, params: {mode: hang}}", True)],
)
def test_a_cancelled_run_stops_politely_or_by_force(run_on_ray: Run, workspace, node: str, loses: bool) -> None:  # noqa: FBT001
    """`orchestrator cancel`: a stage that looks stops by itself, one that hangs is killed after the grace time."""
    watcher = When("a", lambda status: workspace.ledger.ask_to_cancel(status.id))
    result, _ = run_on_ray(
        f"a: {node}\nb: {{stage: probe.echo, inputs: {{inputs: a}}}}", options=RunOptions(grace_s=2.0), watcher=watcher
    )
    assert result.state is api.State.CANCELLED
    assert states(result)["a"] == "cancelled"
    assert api.status(result.run, workspace=workspace).state == "cancelled"
    until_s = time.monotonic() + 30  # a killed process takes a moment to be gone
    while Leases(workspace.store, run="test").holder(result.status.nodes["a"].key) is not None:
        assert time.monotonic() < until_s, "the stage was not stopped"
        time.sleep(0.05)
    assert loses or list(workspace.store.workspaces("checkpoints")) in ([], [result.status.nodes["a"].key])


def test_a_stage_that_hangs_is_killed_at_its_timeout(run_on_ray: Run) -> None:
    """A download that never ends must not hold the run."""
    result, _ = run_on_ray("a: {stage: probe.fail, params: {mode: hang}, timeout: 500ms}", options=RunOptions(grace_s=0.5))
    node = result.status.nodes["a"]
    assert (result.state, node.ending, node.attempt) == (api.State.FAILED, "timeout", 1)


def test_hosts_of_different_size_share_the_machine(run_on_ray: Run) -> None:
    """Idle hosts keep what they hold: a larger node must be able to push them out, or the run waits for ever."""
    nodes = "\n".join(
        f"n{i}: {{stage: probe.echo, params: {{value: {i}}}, resources: {{cpus: {cpus}}}"
        + (f", inputs: {{inputs: n{i - 1}}}}}" if i else "}")
        for i, cpus in enumerate([1, 2, 4, 0.5, 3, 1])
    )
    result, _ = run_on_ray(nodes)
    assert set(states(result).values()) == {"done"}


def test_a_fresh_process_is_never_shared(run_on_ray: Run) -> None:
    """A stage that changes its process for good asks for one of its own."""
    chain = """
        a: {{stage: probe.echo}}
        b: {{stage: probe.echo, params: {{value: {value}}}, inputs: {{inputs: a}}{extra}}}
        c: {{stage: probe.echo, inputs: {{inputs: b}}}}
    """
    _, shared = run_on_ray(chain.format(value=1, extra=""))
    assert shared.num_hosts == 1
    _, fresh = run_on_ray(chain.format(value=2, extra=", resources: {fresh_process: true}"))
    assert fresh.num_hosts == 2


def test_what_can_never_fit_is_refused(run_on_ray: Run) -> None:
    """Ray itself would wait for ever."""
    with pytest.raises(api.OrchestratorError, match="can never run here: it asks for 64 CPU"):
        run_on_ray("a: {stage: probe.echo, resources: {cpus: 64}}")


def test_a_trial_that_is_abandoned_goes_on_from_its_checkpoint_when_asked_for_again(ray: Any, workspace, plan_text) -> None:
    """A search that stops a trial early pays for its seconds once, whoever asks for the rest."""
    plan = plan_text(HEAD + "  a: {stage: probe.sleep, params: {seconds: 3}}\n")
    executor = SharedRay(workspace.store, "guided", ray)

    class Guide:
        num_abandoned = 0

        def advance(self, scheduler: Scheduler) -> bool:
            if "t1" not in scheduler.graph.groups:
                scheduler.add(trial_nodes(plan, "t1"), group="t1")
            lines, _ = workspace.ledger.progress("guided", scheduler.folder_of("search/t1/a"))
            if lines and lines[-1]["step"] >= 15 and not self.num_abandoned:
                self.num_abandoned += 1
                scheduler.abandon("t1")
                scheduler.add(trial_nodes(plan, "t2"), group="t2")  # the stopped attempt still runs
            return scheduler.group_state("t1") is GroupState.RUNNING

        def look(self, scheduler: Scheduler) -> None:
            raise AssertionError("nothing runs in this thread")

    leases = Leases(workspace.store, run="guided")
    scheduler = Scheduler(
        Plan(plan.checked, {}), run="guided", executor=executor, shapes=executor.start(), artifacts=workspace.artifacts,
        leases=leases, clock=time.monotonic, emit=lambda _events: None, guide=Guide(),
    )  # fmt: skip
    assert scheduler.drive() is api.State.DONE
    executor.close()
    assert (scheduler.group_state("t1"), scheduler.group_state("t2")) == (GroupState.CANCELLED, GroupState.DONE)
    assert scheduler.metrics_of("search/t2/a")["num_steps_resumed"] >= 15
