"""Trials that nobody wants any more: stopped, outlived by what others share with them, and asked for again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from growing import BASE, FAILED, HOURS, abandoning, adding, run, states
from virtual import Attempt, VirtualMachine

from orchestrator.engine.scheduler import RunOptions
from orchestrator.engine.units import GroupState, State
from orchestrator.engine.work import Ending
from orchestrator.report.run_status import NodeStatus, RunStatus


def test_an_abandoned_trial_is_stopped_and_what_waited_is_cancelled_at_once(plan, trial) -> None:
    """Early stopping saves hours only if they are not spent."""
    machine = VirtualMachine({"search/t1/train": [HOURS]})
    state, scheduler = run(plan(BASE), machine, (0.0, adding(trial("t1"), "t1")), (50.0, abandoning("t1")))
    assert (state, scheduler.group_state("t1")) == (State.DONE, GroupState.CANCELLED)
    assert states(scheduler, "t1") == {"train": "cancelled", "export": "cancelled"}
    (stopped,) = machine.runs_of("search/t1/train")
    assert (stopped.ending, stopped.ended_s) == (Ending.CANCELLED, pytest.approx(50, abs=0.5))
    assert machine.kinds_of("search/t1/train") == ["node_started", "node_cancelled"]
    assert scheduler.seconds_of("search/t1/train") == pytest.approx(49, abs=0.5)


def test_a_trial_that_does_not_stop_is_killed_after_the_grace_time(plan, trial) -> None:
    """A stage that hangs must not hold its GPU until the end of the search; being killed is no failure to be tried again."""
    machine = VirtualMachine({"search/t1/train": [Attempt(9999.0, hangs=True)]})
    actions = [(0.0, adding(trial("t1"), "t1")), (50.0, abandoning("t1")), (70.0, adding(trial("t2"), "t2"))]
    _, scheduler = run(plan(BASE), machine, *actions, options=RunOptions(grace_s=5.0))
    (stopped,) = machine.runs_of("search/t1/train")
    assert (stopped.ending, stopped.ended_s) == (Ending.LOST, pytest.approx(55, abs=0.8))
    assert states(scheduler, "t1") == {"train": "cancelled", "export": "cancelled"}


def test_an_abandoned_trial_that_finishes_first_is_done(plan, trial) -> None:
    """What was made is kept, whoever wanted it."""
    machine = VirtualMachine({"search/t1/train": [Attempt(50.0, hangs=True)]})
    _, scheduler = run(plan(BASE), machine, (0.0, adding(trial("t1"), "t1")), (49.0, abandoning("t1")))
    assert states(scheduler, "t1") == {"train": "done", "export": "cancelled"}


def test_a_maker_of_an_abandoned_trial_goes_on_for_those_that_share_it(plan, trial) -> None:
    """Stopping one trial must not cost another its training."""
    machine = VirtualMachine({"search/t1/train": [Attempt(100.0)]})
    actions = [(0.0, adding(trial(name, value="same"), name)) for name in ("t1", "t2")]
    _, scheduler = run(plan(BASE), machine, *actions, (50.0, abandoning("t1")))
    assert states(scheduler, "t1") == {"train": "done", "export": "cancelled"}
    assert (scheduler.group_state("t1"), scheduler.group_state("t2")) == (GroupState.CANCELLED, GroupState.DONE)


def test_the_last_that_shares_a_maker_stops_it_by_leaving(plan, trial) -> None:
    """Nothing may run for nobody, in whatever order interest was lost."""
    machine = VirtualMachine({"search/t1/train": [HOURS]})
    actions = [(0.0, adding(trial(name, value="same"), name)) for name in ("t1", "t2")]
    _, scheduler = run(plan(BASE), machine, *actions, (50.0, abandoning("t1")), (60.0, abandoning("t2")))
    assert machine.runs_of("search/t1/train")[0].ended_s == pytest.approx(60, abs=0.5)
    assert {*states(scheduler, "t1").values(), *states(scheduler, "t2").values()} == {"cancelled"}


@pytest.mark.parametrize("fate", ["failed", "abandoned"])
def test_what_is_kept_only_for_a_node_that_closes_is_stopped_with_it(plan, trial, fate: str) -> None:
    """The one that still needed it is blocked by something else, or given up: its parents must not go on for nobody."""
    machine = VirtualMachine({"search/t1/train": [HOURS], "gate": [Attempt(70.0, Ending.FAILED)]})
    gate = "gate: {stage: probe.echo, params: {value: gate}}\n"
    user = "user: {stage: probe.echo, params: {value: user}, inputs: {inputs: [train, gate]}}\n"
    train = "train: {stage: probe.echo, params: {value: t1}, inputs: {inputs: base}}\n"
    whole = {node.label: node for node in plan(BASE + gate + train + user).nodes.values()}
    outer = [whole["gate"], replace(whole["user"], inputs={"inputs": ("search/t1/train", "gate")})]
    actions = [(0.0, adding(trial("t1"), "t1")), (1.0, adding(outer, "t2")), (50.0, abandoning("t1"))]
    end_s = 71.0 if fate == "failed" else 60.0
    actions += [(60.0, abandoning("t2"))] if fate == "abandoned" else []
    run(plan(BASE), machine, *actions)
    (stopped,) = machine.runs_of("search/t1/train")
    assert (stopped.ending, stopped.ended_s) == (Ending.CANCELLED, pytest.approx(end_s, abs=0.6))


def test_what_was_cancelled_is_not_revived_for_a_node_that_is_blocked_anyway(plan, trial) -> None:
    """A node added below a failed one and a stopped one: nobody has any use for the stopped one."""
    machine = VirtualMachine({"search/t1/train": [FAILED], "search/t2/train": [HOURS]})
    joint = "train: {stage: probe.echo, params: {value: t1}, inputs: {inputs: base}}\n"
    joint += "joint: {stage: probe.echo, params: {value: 3}, inputs: {inputs: [train, base]}}\n"
    node = plan(BASE + joint).nodes["joint"]
    carried = replace(node, label="joint", inputs={"inputs": ("search/t1/train", "search/t2/train")})
    actions = [(0.0, adding(trial(name), name)) for name in ("t1", "t2")]
    state, scheduler = run(plan(BASE), machine, *actions, (5.0, abandoning("t2")), (9.0, adding([carried], "t3")))
    assert (state, scheduler.group_state("t3")) == (State.DONE, GroupState.FAILED)
    assert [execution.ending for execution in machine.runs_of("search/t2/train")] == [Ending.CANCELLED]


def test_what_waits_for_a_place_or_to_be_tried_again_is_withdrawn(plan, trial) -> None:
    """An abandoned trial in the queue would take a place, or keep others from being admitted."""
    machine = VirtualMachine(
        {"search/t1/train": [Attempt(100.0)], "search/t3/train": [Attempt(1.0, Ending.LOST)]}, max_at_once=1
    )
    actions = [(0.0, adding(trial("t1"), "t1")), (2.0, adding(trial("t2"), "t2")), (3.0, abandoning("t2"))]
    retry = ", retry: {attempts: 9, backoff: 50s}"
    actions += [(103.0, adding(trial("t3", train=retry), "t3")), (120.0, abandoning("t3"))]
    _, scheduler = run(plan(BASE), machine, *actions)
    assert machine.runs_of("search/t2/train") == []
    assert len(machine.runs_of("search/t3/train")) == 1
    assert scheduler.group_state("t3") is GroupState.CANCELLED
    assert machine.now_s < 130


@pytest.mark.parametrize("readded_s", [50.05, 80.0])
@pytest.mark.parametrize("name", ["t1", "t2"])
def test_a_cancelled_key_that_is_asked_for_again_runs_again(plan, trial, readded_s: float, name: str) -> None:
    """HyperBand pauses a trial and goes on with it; another trial may want the same key; the stopped attempt may still run."""
    machine = VirtualMachine({"search/t1/train": [Attempt(100.0), Attempt(5.0)]})
    actions = [(0.0, adding(trial("t1", value="same"), "t1")), (50.0, abandoning("t1"))]
    _, scheduler = run(plan(BASE), machine, *actions, (readded_s, adding(trial(name, value="same"), name)))
    runs = [execution for execution in machine.executions if execution.label.endswith("train")]
    assert [execution.ending for execution in runs] == [Ending.CANCELLED, Ending.DONE]
    assert runs[0].ended_s <= runs[1].began_s
    assert scheduler.group_state(name) is GroupState.DONE
    assert set(states(scheduler, name).values()) == {"done"}


def test_being_stopped_costs_no_attempt(plan, trial) -> None:
    """A trial that was paused five times still has all its tries against a lost machine."""
    paused, lost = Attempt(10.0), Attempt(1.0, Ending.LOST)
    machine = VirtualMachine({"search/t1/train": [paused, paused, paused, lost, lost, Attempt(1.0)]})
    nodes = trial("t1", train=", retry: {attempts: 3, backoff: 1s}")
    actions = [(time_s, adding(nodes, "t1")) for time_s in (0.0, 5.0, 10.0, 15.0)]
    actions += [(time_s, abandoning("t1")) for time_s in (3.0, 8.0, 13.0)]
    _, scheduler = run(plan(BASE), machine, *actions)
    assert scheduler.group_state("t1") is GroupState.DONE
    started = [e["attempt"] for e in machine.events if e["type"] == "node_started" and e["node"] == "search/t1/train"]
    assert started == [1, 2, 3, 4, 5, 6]


def test_what_stopped_attempts_held_was_spent(plan, trial) -> None:
    """Else a search that stops its trials early, or a run that is cancelled, is gone on from as if it had cost nothing."""
    machine = VirtualMachine({"search/t1/train": [Attempt(9999.0, hangs=True), HOURS]})
    nodes = trial("t1", train=", resources: {cpus: 2}")
    actions = [(time_s, adding(nodes, "t1")) for time_s in (0.0, 45.0)]
    actions += [(time_s, abandoning("t1")) for time_s in (40.0, 90.0)]
    _, scheduler = run(plan(BASE), machine, *actions, options=RunOptions(grace_s=10.0))
    assert {"attempt_stopped", "node_cancelled"} <= set(machine.kinds_of("search/t1/train"))
    nodes_told = {
        label: NodeStatus(label, unit.node.node, unit.node.spec.name, unit.node.key, "planned")
        for label, unit in scheduler.units.items()
    }
    status = RunStatus(id="r", created="", workflow="w", file="", state="running", nodes=nodes_told, request={})
    status.apply(event for event in machine.events if event["type"] != "nodes_added")
    held_s = sum(each.amounts["CPU"] * (each.ended_s - each.began_s) for each in machine.executions)
    assert held_s > 2 * 80
    assert status.spent.cpu * 3600 == pytest.approx(held_s, abs=1)


def test_a_group_that_has_ended_stays_as_it_ended(plan, trial) -> None:
    """Abandoning all that is left at the end of a search must not turn finished trials into cancelled ones."""
    machine = VirtualMachine({"search/t2/train": [FAILED]})
    actions = [(0.0, adding(trial(name), name)) for name in ("t1", "t2")]
    _, scheduler = run(plan(BASE), machine, *actions, (50.0, abandoning("t1")), (50.0, abandoning("t2")))
    assert (scheduler.group_state("t1"), scheduler.group_state("t2")) == (GroupState.DONE, GroupState.FAILED)
