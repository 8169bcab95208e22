"""Random graphs with random durations, resources, failures, losses and conditions, in virtual time."""

from __future__ import annotations

import itertools
import json
import tempfile
from dataclasses import dataclass
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from virtual import Attempt, VirtualMachine, drive

from orchestrator import api
from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.retries import JITTER, MAX_BACKOFF_S, MAX_UNCOUNTED, RETRIED, UNCOUNTED
from orchestrator.engine.scheduler import RunOptions
from orchestrator.engine.units import State
from orchestrator.engine.work import Ending
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text
from orchestrator.workflow.plan import Plan, Status

EMPTY = api.open_workspace(tempfile.mkdtemp(prefix="scheduler-") + "/never-made")
ENDINGS = [Ending.DONE] * 6 + [Ending.FAILED, *RETRIED]


def make(nodes: dict[str, Any]) -> Plan:
    text = json.dumps({"version": 1, "name": "random", "nodes": nodes})
    return api.plan_checked(check_workflow(load_text(text, file="w.yaml")), workspace=EMPTY)


@dataclass(frozen=True)
class Case:
    plan: Plan
    script: dict[str, list[Attempt]]
    shapes: tuple[MachineShape, ...]
    max_at_once: int | None


@st.composite
def cases(draw: st.DrawFn, *, max_nodes: int = 10, conditions: bool = True) -> Case:
    nodes: dict[str, Any] = {}
    script = {}
    for number in range(draw(st.integers(1, max_nodes))):
        name, earlier = f"n{number}", list(nodes)
        parents = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=3)) if earlier else []
        node: dict[str, Any] = {
            "stage": "probe.echo",
            "params": {"value": draw(st.integers(0, 4))},  # equal values below equal parents: one key
            "resources": {"cpus": draw(st.sampled_from([0.5, 1, 2, 4]))},
            "retry": {"attempts": draw(st.integers(1, 4)), "backoff": "1s"},
        }
        if parents:
            node["inputs"] = {"inputs": parents}
        if earlier and draw(st.integers(0, 3)) == 0:
            node["needs"] = [draw(st.sampled_from(earlier))]
        if conditions and earlier and draw(st.integers(0, 4)) == 0:
            node["when"] = {"metric": f"{draw(st.sampled_from(earlier))}.value", "min": draw(st.integers(0, 4))}
        nodes[name] = node
        metrics = {"value": node["params"]["value"]}
        script[name] = [
            Attempt(draw(st.sampled_from([0.0, 0.1, 1.0, 7.0])), ending, metrics)
            for ending in draw(st.lists(st.sampled_from(ENDINGS), min_size=1, max_size=4))
        ]
    shapes = draw(st.sampled_from([(MachineShape(cpus=4),), (MachineShape(cpus=4), MachineShape(cpus=2))]))
    return Case(make(nodes), script, shapes, draw(st.sampled_from([None, 1, 2])))


def machine_of(case: Case) -> VirtualMachine:
    return VirtualMachine(case.script, shapes=case.shapes, max_at_once=case.max_at_once)


@settings(max_examples=100)
@given(cases())
def test_every_run_ends_with_every_node_accounted_for(case: Case) -> None:
    """A run that hangs, forgets a node, or runs one before its inputs is worth nothing (the machine checks order and room)."""
    machine = machine_of(case)
    state, scheduler = drive(case.plan, machine, options=RunOptions(keep_going=True))
    units = scheduler.units
    assert all(unit.state in (State.DONE, State.FAILED, State.BLOCKED, State.SKIPPED) for unit in units.values())
    assert state is (State.FAILED if any(unit.state is State.FAILED for unit in units.values()) else State.DONE)
    for label, unit in units.items():
        runs = machine.runs_of(label)
        assert all(run.ending is not Ending.DONE for run in runs[:-1]), f"{label} ran again after it was done"
        assert (unit.state in (State.DONE, State.FAILED)) or not runs or case.plan.nodes[label].status is Status.SKIP
        assert sum(run.ending not in UNCOUNTED for run in runs) <= case.plan.nodes[label].asked.retry.attempts
        assert sum(run.ending in UNCOUNTED for run in runs) <= MAX_UNCOUNTED + 1
        for parent in case.plan.nodes[label].parents:
            ended = [run.ended_s for run in machine.runs_of(parent)]
            assert not runs or not ended or max(ended) <= runs[0].began_s


@settings(max_examples=100)
@given(cases(conditions=False))
def test_a_failure_blocks_exactly_what_is_below_it(case: Case) -> None:
    """With keep_going, what does not need the failed node is still made; what needs it is never started."""
    machine = machine_of(case)
    _, scheduler = drive(case.plan, machine, options=RunOptions(keep_going=True))
    state = {label: unit.state for label, unit in scheduler.units.items()}
    earlier: dict[str, list[str]] = {}  # by key: the first of them that may does the work for all
    for label, node in case.plan.nodes.items():
        below_a_failure = any(state[parent] in (State.FAILED, State.BLOCKED) for parent in node.parents)
        same_work_failed = any(state[other] is State.FAILED for other in earlier.get(node.key, ()))
        earlier.setdefault(node.key, []).append(label)
        assert (state[label] is State.BLOCKED) == (below_a_failure or same_work_failed), label
        if state[label] is State.BLOCKED:
            assert machine.runs_of(label) == []


@settings(max_examples=100)
@given(cases(conditions=False))
def test_attempts_are_bounded_and_spaced(case: Case) -> None:
    """A node that always dies must neither be tried for ever nor in a tight loop; a user's error is not tried again."""
    machine = machine_of(case)
    _, scheduler = drive(case.plan, machine, options=RunOptions(keep_going=True))
    for label in scheduler.units:
        retry = case.plan.nodes[label].asked.retry
        runs = machine.runs_of(label)
        counted = 0
        for first, second in itertools.pairwise(runs):
            assert first.ending in RETRIED
            counted += first.ending not in UNCOUNTED
            doublings = 0 if first.ending in UNCOUNTED else counted - 1
            shortest_s = min(MAX_BACKOFF_S, retry.backoff * 2**doublings) * (1 - JITTER * (first.ending is Ending.STORAGE))
            assert second.began_s - first.ended_s >= shortest_s - 1e-6
            assert second.attempt == first.attempt + 1


@settings(max_examples=100)
@given(cases())
def test_without_keep_going_nothing_starts_after_a_failure(case: Case) -> None:
    """The user asked to stop at the first failure; what runs already may end, and its result is kept."""
    machine = machine_of(case)
    drive(case.plan, machine)
    failed_s = [
        execution.ended_s
        for event, execution in ((e, x) for e in machine.events for x in machine.executions)
        if event["type"] == "node_failed" and event["node"] == execution.label
    ]
    if failed_s:
        assert all(execution.began_s <= max(failed_s) for execution in machine.executions)


@settings(max_examples=100)
@given(cases(), st.floats(0, 20))
def test_a_cancelled_run_ends_within_the_grace_time(case: Case, cancel_s: float) -> None:
    """Ctrl-C must work whatever the run is doing: waiting to try again, running, or stuck."""
    script = {label: [Attempt(a.seconds, a.ending, a.metrics, hangs=True) for a in run] for label, run in case.script.items()}
    machine = VirtualMachine(script, shapes=case.shapes, max_at_once=case.max_at_once)
    state, scheduler = drive(
        case.plan, machine, options=RunOptions(keep_going=True, grace_s=3.0), is_cancel_asked=lambda: machine.now_s >= cancel_s
    )
    if state is State.CANCELLED:
        assert machine.now_s <= cancel_s + 3.0 + 1.0
        assert all(unit.state is not State.RUNNING for unit in scheduler.units.values())
        assert all(execution.began_s <= cancel_s + 0.26 for execution in machine.executions)


@settings(max_examples=100)
@given(cases())
def test_the_same_plan_runs_in_the_same_order_twice(case: Case) -> None:
    """A failure that depends on the order of a set could never be found again."""
    first, second = machine_of(case), machine_of(case)
    drive(case.plan, first)
    drive(case.plan, second)
    assert first.executions == second.executions
    assert first.events == second.events


@settings(max_examples=100)
@given(cases(conditions=False), st.data())
def test_work_of_another_run_is_awaited_and_shared(case: Case, data: st.DataObject) -> None:
    """Two runs of one file: what the other makes is not made here, and what is not shared goes on meanwhile."""
    machine = machine_of(case)
    keys = sorted({node.key for node in case.plan.nodes.values()})
    machine.others = {key: data.draw(st.sampled_from([0.3, 5.0, 40.0])) for key in keys if data.draw(st.booleans())}
    theirs = set(machine.others)
    _, scheduler = drive(case.plan, machine, options=RunOptions(keep_going=True))
    for execution in machine.executions:
        if scheduler.units[execution.label].node.key in theirs:
            assert execution.ending in (Ending.BUSY, Ending.SHARED)
    for unit in scheduler.units.values():
        if unit.node.key in theirs and unit.state is not State.BLOCKED:
            assert unit.state is State.DONE


@settings(max_examples=100)
@given(cases(conditions=False), st.data())
def test_damaged_inputs_are_made_again_and_everything_completes(case: Case, data: st.DataObject) -> None:
    """Bits rot while a run goes on: the artifact is made again, once, and every node that needs it still gets it."""
    script = {label: [Attempt(run[0].seconds, Ending.DONE, run[0].metrics)] for label, run in case.script.items()}
    victims = data.draw(st.lists(st.sampled_from([*case.plan.nodes]), unique=True, max_size=3))
    machine = RottingMachine(script, shapes=case.shapes, max_at_once=case.max_at_once)
    machine.rotten = {case.plan.nodes[label].key for label in victims}
    state, scheduler = drive(case.plan, machine)
    assert state is State.DONE
    assert all(unit.state is State.DONE for unit in scheduler.units.values())
    for label in scheduler.units:
        assert len([run for run in machine.runs_of(label) if run.ending is Ending.DONE]) <= 2


class RottingMachine(VirtualMachine):
    """An artifact in `rotten` is found damaged by whoever reads it first, and set aside."""

    rotten: set[str]

    def submit(self, work: Any, resources: Any) -> None:
        keys = [ref.key for value in work.inputs.values() for ref in ([value] if not isinstance(value, list) else value)]
        gone = [key for key in keys if key not in self.done]
        bad = [key for key in keys if key in self.rotten]
        for key in bad:
            self.rotten.discard(key)
            self.done.pop(key, None)
        if not (gone or bad):
            super().submit(work, resources)
            return
        usual = self.script.get(work.label)
        self.script[work.label] = [Attempt(0.1, Ending.DAMAGED_INPUT)]
        present = dict(self.done)
        self.done.update(dict.fromkeys(keys))  # type: ignore[dict-item]
        super().submit(work, resources)
        self.done = present
        self._tried[work.label] -= 1
        self.script[work.label] = usual or [Attempt()]
