"""Which failures are tried again, after what wait and with what: rules in virtual time, and endings through real runs."""

from __future__ import annotations

import errno
import itertools
from typing import Any

import pytest
from virtual import Attempt, VirtualMachine, drive

from orchestrator import api
from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.executors.ray import host_loss
from orchestrator.engine.retries import JITTER, MAX_UNCOUNTED, ending_of
from orchestrator.engine.units import State
from orchestrator.engine.work import Ending
from orchestrator.errors import StoreError
from orchestrator.workflow.plan import Plan

GIB = 2**30
HEAD = "version: 1\nname: w\nnodes:\n"
DONE = Attempt(1.0)
NO_MEMORY = Attempt(1.0, Ending.NO_MEMORY, error_type="OutOfMemoryError")
BOX = MachineShape(cpus=4, memory_bytes=30 * GIB)


@pytest.fixture
def plan(plan_text):
    def make(nodes: str, **options: Any) -> Plan:
        return plan_text(HEAD + "".join(f"  {line.strip()}\n" for line in nodes.strip().splitlines()), **options)

    return make


def failures(machine: VirtualMachine) -> list[dict[str, Any]]:
    return [event for event in machine.events if event["type"] == "attempt_failed"]


def asked(machine: VirtualMachine, name: str) -> list[float]:
    return [run.amounts.get(name, 0) for run in machine.runs_of("a")]


def test_a_node_out_of_memory_gets_twice_as_much_and_then_the_machine(plan) -> None:
    """To try the same once more would only fail once more, an hour later."""
    machine = VirtualMachine({"a": [NO_MEMORY, NO_MEMORY, NO_MEMORY, DONE]}, shapes=[BOX])
    state, _ = drive(plan("a: {stage: probe.echo, resources: {memory: 6GiB}, retry: {attempts: 4, backoff: 1s}}"), machine)
    assert state is State.DONE
    assert asked(machine, "memory") == [6 * GIB, 12 * GIB, 24 * GIB, 30 * GIB]
    assert asked(machine, "CPU") == [1, 1, 1, 4], "alone: nothing runs beside it"
    assert [event["note"] for event in failures(machine)] == [
        "attempt 2 will use memory 12GiB (policy oom: grow)",
        "attempt 3 will use memory 24GiB (policy oom: grow)",
        "attempt 4 will have its machine to itself (policy oom: run alone)",
    ]
    assert {event["class"] for event in failures(machine)} == {"out_of_memory"}


def test_a_node_that_asked_for_no_memory_starts_from_what_it_used(plan) -> None:
    """Few files say how much; what the process had used is the best guess there is, else its share of the machine."""
    used = Attempt(1.0, Ending.NO_MEMORY, peak_memory_bytes=3 * GIB, process_id=7)
    for first, expected in ((used, 6 * GIB), (NO_MEMORY, 15 * GIB)):
        machine = VirtualMachine({"a": [first, DONE]}, shapes=[BOX])
        state, _ = drive(plan("a: {stage: probe.echo, retry: {backoff: 1s}}"), machine)
        assert state is State.DONE
        assert asked(machine, "memory") == [0, expected]


def test_what_ran_alone_and_still_had_too_little_is_not_tried_again(plan) -> None:
    """There is no more; the user must make the batch smaller, and should know it now."""
    raised = Attempt(1.0, Ending.NO_MEMORY, process_id=7)
    machine = VirtualMachine({"a": [raised]}, shapes=[BOX])
    nodes = "a: {stage: probe.echo, resources: {cpus: 4, memory: 30GiB}, retry: {attempts: 5, backoff: 1s}}"
    state, _ = drive(plan(nodes), machine)
    assert (state, len(machine.runs_of("a"))) == (State.FAILED, 1)
    assert "machine to itself" in machine.events[-1]["note"]


def test_a_share_of_a_gpu_grows_to_the_whole(plan) -> None:
    """Memory of a GPU is not counted by anybody: two halves fill it together."""
    cuda = Attempt(1.0, Ending.NO_MEMORY, error="CUDA out of memory. Tried to allocate", process_id=7)
    machine = VirtualMachine({"a": [cuda]}, shapes=[MachineShape(cpus=4, gpus=1, memory_bytes=30 * GIB)])
    state, _ = drive(plan("a: {stage: probe.echo, resources: {gpus: 0.5}, retry: {attempts: 9, backoff: 1s}}"), machine)
    assert (state, asked(machine, "GPU")) == (State.FAILED, [0.5, 1])


def test_more_memory_changes_neither_threads_nor_key(plan) -> None:
    """Sums of floating-point numbers depend on the number of threads, and what comes out must not depend on a retry."""
    seen = []

    class Watching(VirtualMachine):
        def submit(self, work, resources):
            seen.append((work.num_threads, work.key, work.settings))
            super().submit(work, resources)

    machine = Watching({"a": [NO_MEMORY, NO_MEMORY, DONE]}, shapes=[MachineShape(cpus=8, memory_bytes=GIB)])
    drive(plan("a: {stage: probe.echo, resources: {cpus: 2, memory: 600MiB}, retry: {backoff: 1s}}"), machine)
    assert asked(machine, "CPU") == [2, 8, 8]
    assert seen[0] == seen[1] == seen[2]


def test_preempted_attempts_do_not_count_up_to_a_limit(plan) -> None:
    """A node on cheap machines is taken away five times a night, and is no worse for it; but not for ever."""
    preempted = Attempt(1.0, Ending.PREEMPTED)
    nodes = "a: {stage: probe.echo, retry: {attempts: 1, backoff: 1s}}"
    machine = VirtualMachine({"a": [preempted] * 6 + [DONE]})
    assert drive(plan(nodes), machine)[0] is State.DONE
    assert [event["class"] for event in failures(machine)] == ["preempted"] * 6
    machine = VirtualMachine({"a": [preempted]})
    assert drive(plan(nodes), machine)[0] is State.FAILED
    assert len(machine.runs_of("a")) == MAX_UNCOUNTED + 1
    assert "the limit" in machine.events[-1]["note"]


def test_a_lost_lease_is_no_try_either(plan) -> None:
    """Somebody else is making it; this run waits for that, even where the file allows a single attempt."""
    machine = VirtualMachine({"a": [Attempt(1.0, Ending.LEASE_LOST), DONE]})
    assert drive(plan("a: {stage: probe.echo, retry: {attempts: 1}}"), machine)[0] is State.DONE


def test_waits_for_the_store_differ_from_node_to_node(plan) -> None:
    """A hundred nodes that lost the store together must not all come back in the same second."""
    labels = [f"n{number}" for number in range(8)]
    nodes = "\n".join(
        f"{label}: {{stage: probe.echo, params: {{value: {label}}}, retry: {{backoff: 10s}}}}" for label in labels
    )
    machine = VirtualMachine({label: [Attempt(1.0, Ending.STORAGE), DONE] for label in labels}, shapes=[MachineShape(cpus=8)])
    assert drive(plan(nodes), machine)[0] is State.DONE
    delays = [event["delay_s"] for event in failures(machine)]
    assert len(set(delays)) == len(labels)
    assert all(10 * (1 - JITTER) <= delay <= 10 * (1 + JITTER) for delay in delays)
    assert {event["class"] for event in failures(machine)} == {"storage"}


def test_a_mixture_of_losses_counts_only_what_is_the_nodes_own(plan) -> None:
    """Two lost processes of three tries, with preemptions between them."""
    script = [Ending.LOST, Ending.PREEMPTED, Ending.LOST_NODE, Ending.PREEMPTED, Ending.LOST]
    machine = VirtualMachine({"a": [Attempt(1.0, ending) for ending in script]})
    state, _ = drive(plan("a: {stage: probe.echo, retry: {attempts: 3, backoff: 10s}}"), machine)
    assert state is State.FAILED
    classes = ["lost_worker", "preempted", "lost_node", "preempted", "lost_worker"]
    assert [event["class"] for event in failures(machine)] == classes
    runs = machine.runs_of("a")
    waits = [second.began_s - first.ended_s for first, second in itertools.pairwise(runs)]
    assert waits == pytest.approx([10, 10, 20, 10], abs=0.3)


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (MemoryError(), Ending.NO_MEMORY),
        (OutOfMemoryError("CUDA out of memory"), Ending.NO_MEMORY),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), Ending.NO_MEMORY),
        (OSError(errno.ENOSPC, "No space left on device"), Ending.STORAGE),
        (StoreError("the server cannot be reached"), Ending.STORAGE),
        (FileNotFoundError(errno.ENOENT, "data/train"), Ending.FAILED),
        (RuntimeError("shape mismatch"), Ending.FAILED),
        (ValueError("no"), Ending.FAILED),
    ],
)
def test_what_a_stage_raises_has_a_class(error: Exception, ending: Ending) -> None:
    """Also where a library has wrapped it."""
    assert ending_of(error) is ending
    wrapped = RuntimeError("in worker 3")
    wrapped.__cause__ = error
    assert ending_of(wrapped) is ending


def test_an_attempt_that_failed_is_told_with_its_class_host_and_last_words(run_text, workspace: api.Workspace) -> None:
    """Who reads the ledger a week later has no terminal to look at."""
    result = run_text(HEAD + "  a: {stage: probe.fail, params: {mode: memory}}\n")
    assert result.state is State.FAILED
    (event,) = [event for event in workspace.ledger.events(result.run)[0] if event["type"] == "attempt_failed"]
    assert (event["class"], event["ending"], event["will_retry"]) == ("out_of_memory", "no_memory", False)
    assert event["host"]
    assert event["seconds"] >= 0
    assert event["log_tail"] == ["probe.fail: attempt 1"]
    assert result.status.nodes["a"].failure_class == "out_of_memory"


class Lost(Exception):
    """What Ray raises for a host that does not answer any more: words, and a mark where its autoscaler took the machine."""

    def __init__(self, words: str, *, preempted: bool = False) -> None:
        super().__init__(words)
        self.preempted = preempted


@pytest.mark.parametrize(
    ("words", "ending"),
    [
        ("The actor died because its node has died. Node Id: 5f", Ending.LOST_NODE),
        ("The actor died unexpectedly ...\n\tthe actor's node was terminated unexpectedly: heartbeats", Ending.LOST_NODE),
        ("The actor died unexpectedly ... worker died ... SYSTEM_ERROR ... End of file", Ending.LOST),
    ],
)
def test_a_lost_machine_is_told_from_a_lost_process(words: str, ending: Ending) -> None:
    """The words are those of Ray 2.60, which has no type for the difference."""
    assert host_loss(Lost(words), kill_asked=False)[0] is ending
    assert host_loss(Lost(words), kill_asked=True)[0] is Ending.LOST
    assert host_loss(Lost(words, preempted=True), kill_asked=False)[0] is Ending.PREEMPTED
