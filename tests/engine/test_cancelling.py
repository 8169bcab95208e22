"""Stopping a part of a run while the rest goes on, and stopping all of it by force, case by case in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from virtual import Attempt, ScriptedGuide, VirtualMachine, drive, trial_nodes

from orchestrator.engine.scheduler import RunOptions, Scheduler
from orchestrator.engine.units import GroupState, State
from orchestrator.engine.work import Ending
from orchestrator.workflow.plan import Plan

HOURS = Attempt(9999.0)


@pytest.fixture
def plan(plan_text) -> Callable[[str], Plan]:
    def make(nodes: str) -> Plan:
        return plan_text(f"version: 1\nname: w\nnodes:\n{''.join(f'  {line}' for line in nodes.splitlines(keepends=True))}")

    return make


def states(scheduler: Scheduler) -> dict[str, str]:
    return {label: unit.state.value for label, unit in scheduler.units.items()}


def asked_at(machine: VirtualMachine, at_s: float, *names: str) -> dict[str, Any]:
    return {"cancels_asked": lambda: names if machine.now_s >= at_s else ()}


BRANCHES = """\
start: {stage: probe.echo}
long: {stage: probe.echo, params: {value: long}, inputs: {inputs: start}}
below: {stage: probe.echo, params: {value: below}, inputs: {inputs: long}}
other: {stage: probe.echo, params: {value: other}, inputs: {inputs: start}}
last: {stage: probe.echo, params: {value: last}, inputs: {inputs: other}}
"""


def test_a_cancelled_node_and_what_needs_it_stop_while_the_rest_of_the_run_ends(plan) -> None:
    """One branch was a mistake; the other must not be lost with it. The run is cancelled: not all was made."""
    machine = VirtualMachine({"long": [HOURS], "other": [Attempt(20.0)]})
    state, scheduler = drive(plan(BRANCHES), machine, **asked_at(machine, 5.0, "long"))
    assert state is State.CANCELLED
    assert states(scheduler) == {
        "start": "done", "long": "cancelled", "below": "cancelled", "other": "done", "last": "done",
    }  # fmt: skip
    assert machine.runs_of("long")[0].ending is Ending.CANCELLED
    assert machine.now_s < 30
    assert [event["name"] for event in machine.events if event["type"] == "cancel_asked"] == ["long"]


def test_a_cancelled_node_that_does_not_stop_is_killed_after_the_grace(plan) -> None:
    machine = VirtualMachine({"long": [Attempt(9999.0, hangs=True)]})
    state, scheduler = drive(
        plan(BRANCHES), machine, options=RunOptions(grace_s=3.0), **asked_at(machine, 5.0, "long")
    )  # fmt: skip
    assert (state, states(scheduler)["last"]) == (State.CANCELLED, "done")
    assert machine.runs_of("long")[0].ending is Ending.LOST
    assert machine.now_s < 10


def test_work_that_an_equal_node_wants_too_goes_on(plan) -> None:
    """Two nodes with one key share one attempt; who cancels the one has nothing to say about the other."""
    nodes = "one: {stage: probe.echo, params: {value: 1}}\ntwo: {stage: probe.echo, params: {value: 1}}\n"
    machine = VirtualMachine({"one": [Attempt(20.0)]})
    state, scheduler = drive(plan(nodes), machine, **asked_at(machine, 5.0, "one"))
    assert state is State.DONE
    assert states(scheduler) == {"one": "done", "two": "done"}


def test_what_has_ended_or_is_unknown_is_left_alone(plan) -> None:
    machine = VirtualMachine({"long": [Attempt(9.0)]})
    state, scheduler = drive(plan(BRANCHES), machine, **asked_at(machine, 5.0, "start", "nobody"))
    assert state is State.DONE
    assert set(states(scheduler).values()) == {"done"}
    assert not [event for event in machine.events if event["type"] == "cancel_asked"]


def test_a_cancelled_trial_ends_alone_and_the_run_is_done(plan) -> None:
    """A trial is one of many: that a person struck one out makes no run incomplete."""
    nodes = "base: {stage: probe.echo}\ntrain: {stage: probe.echo, params: {value: 1}, inputs: {inputs: base}}"
    trial = trial_nodes(plan(nodes), "t0001", outer={"base"})
    machine = VirtualMachine({"search/t0001/train": [HOURS]})
    guide = ScriptedGuide(machine, [(2.0, lambda scheduler: scheduler.add(trial, group="search/t0001"))])
    state, scheduler = drive(
        plan("base: {stage: probe.echo}"), machine, guide=guide, **asked_at(machine, 8.0, "search/t0001")
    )  # fmt: skip
    assert (state, scheduler.group_state("search/t0001")) == (State.DONE, GroupState.CANCELLED)
    assert scheduler.is_given_up("search/t0001")


def test_nodes_that_are_planned_later_do_not_bring_a_cancelled_one_back(plan) -> None:
    """A sweep that settles has the whole workflow planned again, with the cancelled node in it."""
    machine = VirtualMachine({"long": [HOURS], "other": [Attempt(20.0)]})
    asked = plan(BRANCHES)
    guide = ScriptedGuide(machine, [(15.0, lambda scheduler: scheduler.add(asked.nodes.values()))])
    state, scheduler = drive(asked, machine, guide=guide, **asked_at(machine, 5.0, "long"))
    assert state is State.CANCELLED
    assert (states(scheduler)["long"], states(scheduler)["below"]) == ("cancelled", "cancelled")
    assert len(machine.runs_of("long")) == 1


def test_who_asks_the_run_to_stop_says_how_long_its_stages_may_take(plan) -> None:
    """`cancel --grace 2m` for a large checkpoint, `--force` for a stage that must go now, also asked afterwards."""
    for grace_s in (0.0, 40.0):
        machine = VirtualMachine({"long": [Attempt(9999.0, hangs=True)], "other": [Attempt(9999.0, hangs=True)]})

        def grace_asked_s(machine: VirtualMachine = machine, grace_s: float = grace_s) -> float:
            return grace_s if machine.now_s >= 7 else 600.0

        state, _ = drive(
            plan(BRANCHES), machine, is_cancel_asked=lambda machine=machine: machine.now_s > 5, grace_asked_s=grace_asked_s
        )
        assert state is State.CANCELLED
        assert machine.now_s == pytest.approx(5 + max(2.0, grace_s), abs=1.0)
