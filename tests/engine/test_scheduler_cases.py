"""The scheduler, case by case, in virtual time."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from virtual import Attempt, VirtualMachine, drive

from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.retries import MAX_BACKOFF_S
from orchestrator.engine.scheduler import RunOptions
from orchestrator.engine.units import State
from orchestrator.engine.waiting import MAX_BUSY_WAIT_S
from orchestrator.engine.work import Ending
from orchestrator.errors import PlanError
from orchestrator.workflow.plan import Plan

HEAD = "version: 1\nname: w\nnodes:\n"
LOST, FAILED, DONE = Attempt(1.0, Ending.LOST), Attempt(1.0, Ending.FAILED), Attempt(1.0)


def states(scheduler: Any) -> dict[str, str]:
    return {label: unit.state.value for label, unit in scheduler.units.items()}


@pytest.fixture
def plan(plan_text):
    def make(nodes: str, **options: Any) -> Plan:
        return plan_text(HEAD + "".join(f"  {line.strip()}\n" for line in nodes.strip().splitlines()), **options)

    return make


def test_a_node_that_fits_no_machine_is_refused_before_anything_runs(plan) -> None:
    """Otherwise hours are spent before the run finds that its last node waits for ever."""
    machine = VirtualMachine(shapes=[MachineShape(cpus=4), MachineShape(cpus=2, gpus=1)])
    asked = plan("""
        first: {stage: probe.echo}
        last: {stage: probe.echo, inputs: {inputs: first}, resources: {cpus: 4, gpus: 1}}
    """)
    with pytest.raises(PlanError, match='node "last" can never run here: it asks for 4 CPU, 1 GPU') as caught:
        drive(asked, machine)
    assert "resources" in caught.value.next_step
    assert machine.executions == []


def test_a_lost_node_is_tried_again_after_a_doubling_wait(plan) -> None:
    """A preempted machine comes back in a minute; hammering it does not help."""
    machine = VirtualMachine({"a": [LOST, LOST, LOST, DONE]})
    state, _ = drive(plan("a: {stage: probe.echo, retry: {attempts: 4, backoff: 10s}}"), machine)
    assert state is State.DONE
    runs = machine.runs_of("a")
    assert [run.attempt for run in runs] == [1, 2, 3, 4]
    waits = [second.began_s - first.ended_s for first, second in itertools.pairwise(runs)]
    assert waits == pytest.approx([10.0, 20.0, 40.0], abs=0.3)
    assert MAX_BACKOFF_S == 60.0


def test_retries_end_and_the_last_error_is_told(plan) -> None:
    """A node that always dies must not be tried for ever."""
    machine = VirtualMachine({"a": [LOST]})
    state, scheduler = drive(plan("a: {stage: probe.echo, retry: {attempts: 3, backoff: 1s}}"), machine)
    assert (state, states(scheduler)) == (State.FAILED, {"a": "failed"})
    assert machine.kinds_of("a") == ["node_started", "attempt_failed"] * 3 + ["node_failed"]
    assert [event["will_retry"] for event in machine.events if event["type"] == "attempt_failed"] == [True, True, False]
    assert machine.events[-1]["error"] == "simulated"


@pytest.mark.parametrize(
    ("on_error", "error_type", "attempts"),
    [("false", "RuntimeError", 1), ("true", "RuntimeError", 3), ("true", "TrainingDiverged", 1), ("true", "ValueError", 1)],
)
def test_a_stages_own_error_is_tried_again_only_where_asked_and_hopeful(plan, on_error, error_type, attempts) -> None:
    """Training that diverged diverges again; hours would be spent on the same failure."""
    machine = VirtualMachine({"a": [Attempt(1.0, Ending.FAILED, error_type=error_type)]})
    drive(plan(f"a: {{stage: probe.echo, retry: {{attempts: 3, backoff: 1s, on_error: {on_error}}}}}"), machine)
    assert len(machine.runs_of("a")) == attempts


DIAMOND = """
    a: {stage: probe.echo, params: {value: 1}}
    bad: {stage: probe.echo, params: {value: 2}, inputs: {inputs: a}}
    good: {stage: probe.echo, params: {value: 3}, inputs: {inputs: a}}
    below: {stage: probe.echo, params: {value: 4}, inputs: {inputs: [bad, good]}}
    far: {stage: probe.echo, params: {value: 5}, inputs: {inputs: below}}
    beside: {stage: probe.echo, params: {value: 6}, inputs: {inputs: good}}
"""


def test_with_keep_going_only_what_is_below_a_failure_is_blocked(plan) -> None:
    """One bad trial must not cost the others."""
    machine = VirtualMachine({"bad": [FAILED]})
    state, scheduler = drive(plan(DIAMOND), machine, options=RunOptions(keep_going=True))
    assert state is State.FAILED
    assert states(scheduler) == {
        "a": "done", "bad": "failed", "good": "done", "below": "blocked", "far": "blocked", "beside": "done",
    }  # fmt: skip
    assert [event["by"] for event in machine.events if event["type"] == "node_blocked"] == ["bad", "bad"]


def test_without_keep_going_what_runs_may_end_and_no_more_starts(plan) -> None:
    """The user wants to see the failure soon, and to keep what was nearly done."""
    machine = VirtualMachine({"bad": [FAILED], "good": [Attempt(9.0)]})
    state, scheduler = drive(plan(DIAMOND), machine)
    assert state is State.FAILED
    assert states(scheduler)["good"] == "done"
    assert machine.runs_of("beside") == []


def test_a_node_that_shares_the_work_of_a_hit_is_done_with_it(plan, run_text, workspace) -> None:
    """Two nodes with one key, the first made before: the second must neither crash the run nor run."""
    run_text(HEAD + "  a: {stage: probe.echo, params: {value: 1}}\n")
    asked = plan("""
        a: {stage: probe.echo, params: {value: 1}}
        same: {stage: probe.echo, params: {value: 1}}
        new: {stage: probe.echo, params: {value: 2}, inputs: {inputs: same}}
    """)
    assert [node.status.value for node in asked.nodes.values()] == ["HIT", "SHARED", "RUN"]
    machine = VirtualMachine()
    state, scheduler = drive(asked, machine)
    assert (state, set(states(scheduler).values())) == (State.DONE, {"done"})
    assert machine.runs_of("same") == []


def test_equal_nodes_run_once(plan) -> None:
    """Trials that share a stage must pay for it once."""
    machine = VirtualMachine()
    state, scheduler = drive(plan("a: {stage: probe.echo}\nb: {stage: probe.echo}\nc: {stage: probe.echo}"), machine)
    assert (state, set(states(scheduler).values())) == (State.DONE, {"done"})
    assert [execution.label for execution in machine.executions] == ["a"]


@pytest.mark.parametrize("why", ["skipped", "blocked"])
def test_a_node_whose_twin_never_ran_does_the_work_itself(plan, why: str) -> None:
    """Twins have one key; the first also waits for something else, which is skipped or fails: the second must not suffer."""
    nodes = """
        gate: {stage: probe.echo, params: {value: 1}}
        trouble: {stage: probe.echo, params: {value: 2}, when: {metric: gate.value, min: 5}}
        first: {stage: probe.echo, params: {value: 3}, needs: [trouble]}
        twin: {stage: probe.echo, params: {value: 3}}
        below: {stage: probe.echo, params: {value: 4}, inputs: {inputs: twin}}
    """
    if why == "blocked":
        nodes = nodes.replace(", when: {metric: gate.value, min: 5}", "")
    machine = VirtualMachine({"trouble": [FAILED], "gate": [Attempt(1.0, metrics={"value": 1})]})
    _, scheduler = drive(plan(nodes), machine, options=RunOptions(keep_going=True))
    found = states(scheduler)
    assert (found["first"], found["twin"], found["below"]) == (why, "done", "done")


def test_a_condition_on_a_metric_skips_the_node_and_what_needs_it(plan) -> None:
    """An export must not run for a model that lost its accuracy."""
    nodes = """
        train: {stage: probe.echo, params: {value: 1}}
        export: {stage: probe.echo, params: {value: 2}, inputs: {inputs: train}, when: {metric: train.value, min: 0.9}}
        ship: {stage: probe.echo, params: {value: 3}, inputs: {inputs: export}}
    """
    for value, expected in ((0.95, "done"), (0.5, "skipped"), (None, "skipped")):
        machine = VirtualMachine({"train": [Attempt(1.0, metrics={"value": value})]})
        state, scheduler = drive(plan(nodes), machine)
        assert state is State.DONE
        assert (states(scheduler)["export"], states(scheduler)["ship"]) == (expected, expected)


def test_a_busy_node_waits_for_the_other_run_and_shares(plan) -> None:
    """Two submissions of one file: the second waits for what the first makes instead of making it twice."""
    asked = plan("a: {stage: probe.echo}\nb: {stage: probe.echo, params: {value: 1}, inputs: {inputs: a}}")
    machine = VirtualMachine()
    machine.others = {asked.nodes["a"].key: 60.0}
    state, _ = drive(asked, machine)
    assert state is State.DONE
    assert {execution.ending for execution in machine.runs_of("a")} == {Ending.BUSY}
    assert machine.runs_of("b")[0].began_s <= 60.0 + MAX_BUSY_WAIT_S + 0.3
    assert machine.kinds_of("a").count("node_waiting") == 1
    assert len(machine.runs_of("a")) <= 2, "waiting must not keep starting workers"


def test_a_busy_node_is_made_here_when_the_other_run_dies(plan) -> None:
    """The other run is killed: whoever waits takes the work over."""
    asked = plan("a: {stage: probe.echo}")

    class OtherDies(VirtualMachine):
        def _let_others_work(self) -> None:
            if self.now_s > 10:
                self.others.clear()

    machine = OtherDies()
    machine.others = {asked.nodes["a"].key: 1e9}
    state, _ = drive(asked, machine)
    assert state is State.DONE
    assert machine.runs_of("a")[-1].ending is Ending.DONE


def test_a_node_that_exceeds_its_timeout_is_stopped_and_then_killed(plan) -> None:
    """A hanging download must not hold a GPU for ever; a timeout is not tried again."""
    for hangs, ends_s in ((False, 5.0), (True, 8.0)):
        machine = VirtualMachine({"a": [Attempt(1e9, hangs=hangs)]})
        state, _ = drive(plan("a: {stage: probe.echo, timeout: 5s}"), machine, options=RunOptions(grace_s=3.0))
        assert state is State.FAILED
        (run,) = machine.runs_of("a")
        assert run.ended_s == pytest.approx(ends_s, abs=0.8)
        assert "timeout of 5 s" in machine.events[-1]["error"]
        assert machine.events[-1]["ending"] == "timeout"


def test_a_cancelled_run_tells_which_nodes_it_stopped(plan) -> None:
    """`status` after Ctrl-C."""
    machine = VirtualMachine({"a": [Attempt(1e9)], "b": [Attempt(1e9, hangs=True)]})
    nodes = "a: {stage: probe.echo, params: {value: 1}}\nb: {stage: probe.echo, params: {value: 2}}\n"
    state, scheduler = drive(
        plan(nodes + "c: {stage: probe.echo, inputs: {inputs: [a, b]}}"),
        machine,
        is_cancel_asked=lambda: machine.now_s > 5,
        options=RunOptions(grace_s=2.0),
    )
    assert state is State.CANCELLED
    assert set(states(scheduler).values()) == {"cancelled"}
    assert {run.label: run.ending for run in machine.executions} == {"a": Ending.CANCELLED, "b": Ending.LOST}
    assert machine.now_s < 5 + 2 + 1


def test_a_large_request_is_not_overtaken_for_ever(plan) -> None:
    """A node that needs the whole machine would starve behind a thousand small ones."""
    small = "\n".join(
        f"s{i}: {{stage: probe.echo, params: {{value: {i}}}, inputs: {{inputs: start}}, resources: {{cpus: 1}}}}"
        for i in range(400)
    )
    nodes = (
        "start: {stage: probe.echo}\n"
        + small
        + (
            "\ngate: {stage: probe.echo, params: {value: gate}}"
            "\nbig: {stage: probe.echo, params: {value: big}, inputs: {inputs: gate}, resources: {cpus: 4}}"
        )
    )
    script = {f"s{i}": [Attempt(2.0 + i % 3)] for i in range(400)}
    machine = VirtualMachine({**script, "gate": [Attempt(4.0)]})
    drive(plan(nodes), machine)
    assert machine.runs_of("big")[0].began_s < 90, "it waits at most a minute before room is kept for it"


REPAIR = """
    a: {stage: probe.echo, params: {value: 1}}
    b: {stage: probe.echo, params: {value: 2}, inputs: {inputs: a}}
    slow: {stage: probe.echo, params: {value: 3}}
    join: {stage: probe.echo, params: {value: 4}, inputs: {inputs: [a, slow]}}
    c: {stage: probe.echo, params: {value: 5}, inputs: {inputs: a}}
"""


def test_a_node_does_not_start_early_because_its_input_was_made_twice(plan) -> None:
    """`join` waits for `a` and `slow`; `a` is found damaged by `b` and made again: that must not count for `slow`."""
    asked = plan(REPAIR)

    class Damaging(VirtualMachine):
        def _finish(self, label):
            if label == "b" and self._tried["b"] == 1:
                self.done.pop(asked.nodes["a"].key, None)
            return super()._finish(label)

    machine = Damaging({"b": [Attempt(1.0, Ending.DAMAGED_INPUT), DONE], "slow": [Attempt(50.0)]})
    state, _ = drive(asked, machine)
    assert state is State.DONE
    assert machine.runs_of("join")[0].began_s >= 50.0
    assert len(machine.runs_of("a")) == 2


def test_every_consumer_that_saw_the_damage_is_repaired(plan) -> None:
    """`b` and `c` read the damaged `a` at the same time: one repair must serve both."""
    asked = plan(REPAIR)

    class Damaging(VirtualMachine):
        def _finish(self, label):
            if label in "bc" and self._tried[label] == 1:
                self.done.pop(asked.nodes["a"].key, None)
            return super()._finish(label)

    damaged = [Attempt(1.0, Ending.DAMAGED_INPUT), DONE]
    machine = Damaging({"b": damaged, "c": [Attempt(1.5, Ending.DAMAGED_INPUT), DONE], "a": [Attempt(3.0)]})
    state, _ = drive(asked, machine)
    assert state is State.DONE
    assert len(machine.runs_of("a")) == 2


def test_a_damaged_hit_whose_own_input_failed_blocks_what_needs_it(plan, run_text, workspace) -> None:
    """The repair of `b` needs `a`, which fails this time: the run must end, and say so."""
    nodes = "a: {stage: probe.echo, params: {value: 1}}\nb: {stage: probe.echo, params: {value: 2}, inputs: {inputs: a}}\n"
    run_text(HEAD + "".join(f"  {line}\n" for line in nodes.splitlines()))
    workspace.store.delete(f"artifacts/probe.echo/{plan(nodes).nodes['a'].key}/record.json")
    asked = plan(nodes + "c: {stage: probe.echo, params: {value: 3}, inputs: {inputs: b}}")
    assert [node.status.value for node in asked.nodes.values()] == ["RUN", "HIT", "RUN"]

    class Damaging(VirtualMachine):
        def _finish(self, label):
            if label == "c":
                self.done.pop(asked.nodes["b"].key, None)
            return super()._finish(label)

    machine = Damaging({"a": [FAILED], "c": [Attempt(5.0, Ending.DAMAGED_INPUT)]})
    state, scheduler = drive(asked, machine, options=RunOptions(keep_going=True))
    assert state is State.FAILED
    assert states(scheduler) == {"a": "failed", "b": "blocked", "c": "blocked"}


def test_a_damaged_hit_waits_for_its_own_input_that_is_being_made(plan, run_text, workspace) -> None:
    """The run would otherwise end as done with the node never made."""
    nodes = "a: {stage: probe.echo, params: {value: 1}}\nb: {stage: probe.echo, params: {value: 2}, inputs: {inputs: a}}\n"
    run_text(HEAD + "".join(f"  {line}\n" for line in nodes.splitlines()))
    workspace.store.delete(f"artifacts/probe.echo/{plan(nodes).nodes['a'].key}/record.json")
    asked = plan(nodes + "c: {stage: probe.echo, params: {value: 3}, inputs: {inputs: b}}")

    class Damaging(VirtualMachine):
        def _finish(self, label):
            if label == "c" and self._tried["c"] == 1:
                self.done.pop(asked.nodes["b"].key, None)
            return super()._finish(label)

    machine = Damaging({"a": [Attempt(9.0)], "c": [Attempt(1.0, Ending.DAMAGED_INPUT), DONE]})
    state, scheduler = drive(asked, machine)
    assert (state, set(states(scheduler).values())) == (State.DONE, {"done"})
    assert machine.runs_of("b")[0].began_s >= 9.0
