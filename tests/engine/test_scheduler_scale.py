"""Thousands of nodes: the work of the scheduler per node must not grow with their number. Lines executed are counted, not
seconds, so that a busy machine changes nothing.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
from virtual import Attempt, VirtualMachine, drive

from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.scheduler import RunOptions
from orchestrator.engine.units import State
from orchestrator.engine.work import Ending


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


def lines_of(plan: Any, machine: VirtualMachine) -> int:
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
        state, _ = drive(plan, machine, options=RunOptions(keep_going=True))
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
