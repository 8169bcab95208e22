"""Thousands of nodes: the work of the scheduler per node must not grow with their number. Lines executed are counted, not
seconds, so that a busy machine changes nothing.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from typing import Any

import pytest
from virtual import Attempt, VirtualMachine, drive

from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.scheduler import RunOptions, Scheduler
from orchestrator.engine.units import GroupState, State
from orchestrator.engine.work import Ending
from orchestrator.workflow.plan import Plan, PlanNode


def chain(number: int) -> dict[str, Any]:
    return {
        f"n{i}": {"stage": "probe.echo", "params": {"value": i}, "inputs": {"inputs": [f"n{i - 1}"] if i else []}}
        for i in range(number)
    }


def fan(number: int) -> dict[str, Any]:
    nodes: dict[str, Any] = {"root": {"stage": "probe.echo"}}
    for i in range(number):
        nodes[f"n{i}"] = {"stage": "probe.echo", "params": {"value": i}, "inputs": {"inputs": ["root"]}}
    nodes["reduce"] = {"stage": "probe.echo", "inputs": {"inputs": [f"n{i}" for i in range(number)]}}
    return nodes


def lines_of(plan: Any, machine: VirtualMachine, **options: Any) -> int:
    """Lines of the engine executed while driving the plan."""
    count = 0

    def trace(frame: Any, event: str, _arg: Any) -> Any:
        nonlocal count
        if "orchestrator/engine" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        state, _ = drive(plan, machine, options=RunOptions(keep_going=True), **options)
    finally:
        sys.settrace(None)
    assert state in (State.DONE, State.FAILED)
    return count


@pytest.mark.parametrize("shape", [chain, fan])
@pytest.mark.parametrize("fate", ["done", "lost once", "failed"])
def test_work_grows_in_proportion_to_the_plan(plan_text, shape, fate: str) -> None:
    """A plan of 3,000 trials would spend its time in the scheduler."""
    counts = []
    for number in (200, 800):
        nodes = shape(number)
        script = {}
        if fate == "lost once":
            script = {label: [Attempt(0.01, Ending.LOST), Attempt(0.01)] for label in nodes}
        if fate == "failed":
            script = {"n0": [Attempt(0.01, Ending.FAILED)]}
        machine = VirtualMachine(script, shapes=[MachineShape(cpus=16)])
        counts.append(lines_of(plan_text(json.dumps({"version": 1, "name": "w", "nodes": nodes})), machine))
    assert counts[1] < 4 * counts[0] * 1.25, counts


@pytest.mark.parametrize("shape", [chain, fan])
def test_three_thousand_nodes_complete(plan_text, shape) -> None:
    """No recursion limit, no forgotten node."""
    machine = VirtualMachine(shapes=[MachineShape(cpus=64)])
    nodes = shape(3000)
    state, scheduler = drive(plan_text(json.dumps({"version": 1, "name": "w", "nodes": nodes})), machine)
    assert state is State.DONE
    assert len(machine.executions) == len(nodes)
    assert all(unit.state is State.DONE for unit in scheduler.units.values())


class Search:
    """Keeps so many trials running until all were added; where `stops` it abandons every second one."""

    def __init__(self, trials: list[list[PlanNode]], *, at_once: int, stops: bool) -> None:
        self.trials = deque(enumerate(trials))
        self.at_once = at_once
        self.stops = stops
        self.running: list[str] = []
        self.states: list[GroupState] = []

    def advance(self, scheduler: Scheduler) -> bool:
        for name in list(self.running):
            if self.stops and int(name) % 2 and scheduler.group_state(name) is GroupState.RUNNING:
                scheduler.abandon(name)
            state = scheduler.group_state(name)
            if state is not GroupState.RUNNING:
                self.running.remove(name)
                self.states.append(state)
        while self.trials and len(self.running) < self.at_once:
            number, nodes = self.trials.popleft()
            scheduler.add(nodes, group=str(number))
            self.running.append(str(number))
        return bool(self.trials or self.running)

    def look(self, scheduler: Scheduler) -> None:
        """Its nodes run elsewhere."""


@pytest.mark.parametrize("stops", [False, True], ids=["to the end", "stopped"])
@pytest.mark.parametrize("share", [False, True], ids=["alone", "sharing"])
def test_work_grows_in_proportion_to_the_trials(plan_text, share: bool, stops: bool) -> None:  # noqa: FBT001 - parametrized
    """A sweep of a thousand trials, with or without a stage that all share, must not slow down as it goes on."""
    counts = []
    for number in (250, 1000):
        nodes: dict[str, Any] = {}
        for i in range(number):
            nodes[f"a{i}"] = {"stage": "probe.echo", "params": {"value": "a" if share else f"a{i}"}}
            nodes[f"b{i}"] = {"stage": "probe.echo", "params": {"value": f"b{i}"}, "inputs": {"inputs": [f"a{i}"]}}
            nodes[f"c{i}"] = {"stage": "probe.echo", "params": {"value": f"c{i}"}, "inputs": {"inputs": [f"b{i}"]}}
        whole = plan_text(json.dumps({"version": 1, "name": "w", "nodes": nodes}))
        trials = [[whole.nodes[f"{letter}{i}"] for letter in "abc"] for i in range(number)]
        search = Search(trials, at_once=16, stops=stops)
        machine = VirtualMachine(shapes=[MachineShape(cpus=16)])
        counts.append(lines_of(Plan(whole.checked, {}), machine, guide=search))
        assert len(search.states) == number
        assert set(search.states) == ({GroupState.DONE, GroupState.CANCELLED} if stops else {GroupState.DONE})
    # Trials that are stopped halfway come to end one by one rather than sixteen at a time: more turns, each at its price.
    assert counts[1] < 4 * counts[0] * 1.5, counts
