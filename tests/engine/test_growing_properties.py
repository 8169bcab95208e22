"""Random graphs of which slices are added as groups at random times, abandoned and asked for again, in virtual time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from test_scheduler_properties import ENDINGS, make
from virtual import NEVER_S, Attempt, ScriptedGuide, VirtualMachine, scheduler_of

from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.scheduler import RunOptions, Scheduler
from orchestrator.engine.units import FINAL, GroupState, State
from orchestrator.engine.work import Ending
from orchestrator.workflow.plan import Plan

Action = tuple[float, str, str]  # when, add or abandon, and which group
MAX_TURNS = 60_000


@dataclass(frozen=True)
class Case:
    plan: Plan
    groups: dict[str, list[str]]
    """Labels by group, in the plan's order; "" is what the run begins with, each other is below the groups before it."""
    actions: list[Action]
    script: dict[str, list[Attempt]]
    slots: int
    keep_going: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    nodes: dict[str, Any] = {}
    script = {}
    groups: dict[str, list[str]] = {"": []}
    actions: list[Action] = []
    time_s = 0.0
    for number in range(draw(st.integers(0, 5)) + 1):
        group = f"g{number}" if number else ""
        groups[group] = []
        for _ in range(draw(st.integers(1, 4))):
            name, earlier = f"n{len(nodes)}", list(nodes)
            near = [*groups[""], *groups[group]] if draw(st.booleans()) else earlier
            parents = draw(st.lists(st.sampled_from(near), unique=True, max_size=2)) if near else []
            nodes[name] = {
                "stage": "probe.echo",
                "params": {"value": draw(st.integers(0, 2))},  # equal values below equal parents: one key
                "inputs": {"inputs": parents},
                "resources": {"cpus": draw(st.sampled_from([1, 2]))},
                "retry": {"attempts": draw(st.integers(1, 3)), "backoff": "1s"},
            }
            if earlier and draw(st.integers(0, 4)) == 0:
                nodes[name]["needs"] = [draw(st.sampled_from(earlier))]
            script[name] = [
                Attempt(draw(st.sampled_from([0.0, 1.0, 7.0, 40.0])), ending, hangs=draw(st.integers(0, 4)) == 0)
                for ending in draw(st.lists(st.sampled_from(ENDINGS), min_size=1, max_size=3))
            ]
            groups[group].append(name)
        if group:
            time_s += draw(st.sampled_from([0.0, 0.5, 6.0]))
            actions.append((time_s, "add", group))
            moments = draw(
                st.lists(st.sampled_from([0.0, 0.05, 0.6, 5.0, 30.0]), max_size=3)
            )  # abandoned, asked for, abandoned
            at_s = itertools.accumulate(moments, initial=time_s)
            actions += list(zip(list(at_s)[1:], itertools.cycle(["abandon", "add"]), itertools.repeat(group), strict=False))
    script = {label: [replace(a, metrics={"value": 1}) for a in attempts] for label, attempts in script.items()}
    return Case(make(nodes), groups, actions, script, draw(st.sampled_from([1, 2, 64])), draw(st.booleans()))


class CheckingMachine(VirtualMachine):
    """Looks at every turn whether what is wanted goes on, and nothing else does; wanting is found the slow way."""

    scheduler: Scheduler

    def wanted(self) -> set[str]:
        """Labels of open nodes that were asked for, and of all that they wait for."""
        units = self.scheduler.units
        waiting = [label for label, unit in units.items() if unit.is_open and unit.is_asked_for]
        found: set[str] = set()
        while waiting:
            label = waiting.pop()
            if label not in found:
                found.add(label)
                waiting += units[label].open_parents if units[label].state is State.PENDING else ()
        return found

    def poll(self, timeout_s: float, *, meanwhile: Callable[[], None]) -> Any:
        assert self.num_turns < MAX_TURNS, "the run does not end"
        wanted = self.wanted()
        for label, unit in self.scheduler.units.items():
            assert not unit.is_open or label in wanted or unit.unwanted_at is not None, f"{label} goes on for nobody"
        return super().poll(timeout_s, meanwhile=meanwhile)

    def cancel(self, label: str) -> None:
        run_is_stopped = self.scheduler.cancelled_at is not None
        assert run_is_stopped or label not in self.wanted(), f"{label} was stopped though it is wanted"
        super().cancel(label)


def drive_case(case: Case, *, cancel_s: float = NEVER_S) -> tuple[State, CheckingMachine, Scheduler]:
    machine = CheckingMachine(case.script, shapes=[MachineShape(cpus=64)], max_at_once=case.slots)

    def do(kind: str, group: str) -> Callable[[Scheduler], object]:
        nodes = [case.plan.nodes[label] for label in case.groups[group]]
        if kind == "add":
            return lambda scheduler: scheduler.add(nodes, group=group)
        return lambda scheduler: scheduler.abandon(group)

    first = Plan(case.plan.checked, {label: case.plan.nodes[label] for label in case.groups[""]})
    guide = ScriptedGuide(machine, [(time_s, do(kind, group)) for time_s, kind, group in case.actions])
    machine.scheduler = scheduler_of(
        first,
        machine,
        guide=guide,
        options=RunOptions(keep_going=case.keep_going, grace_s=3.0),
        is_cancel_asked=lambda: machine.now_s >= cancel_s,
    )
    return machine.scheduler.drive(), machine, machine.scheduler


@settings(max_examples=300)
@given(cases())
def test_a_growing_run_ends_with_what_is_wanted_and_nothing_else(case: Case) -> None:
    """Hours for a trial that nobody wants, a trial that was stopped for another's sake, or a search that hangs."""
    state, _, scheduler = drive_case(case)
    units = scheduler.units
    last = {group: kind for _, kind, group in sorted(case.actions, key=lambda action: action[0])}
    ungrouped = [units[label].state for label in case.groups[""]]
    has_failed = any(found in (State.FAILED, State.BLOCKED) for found in ungrouped)
    assert state is (State.FAILED if has_failed else State.DONE)
    if has_failed and not case.keep_going:
        return
    for group, labels in case.groups.items():
        found = {units[label].state for label in labels}
        assert found <= set(FINAL)
        if last.get(group) != "abandon":
            assert State.CANCELLED not in found, f"{group} was wanted"
            expected = GroupState.FAILED if found & {State.FAILED, State.BLOCKED} else GroupState.DONE
            assert scheduler.group_state(group) is expected
        else:
            assert scheduler.group_state(group) is not GroupState.RUNNING


@settings(max_examples=300)
@given(cases())
def test_no_key_is_made_twice_or_by_two_at_once(case: Case) -> None:
    """Trials that share a stage must pay for it once, also where the one that began it was given up."""
    _, machine, scheduler = drive_case(case)
    for _, runs in itertools.groupby(
        sorted(machine.executions, key=lambda run: (scheduler.units[run.label].node.key, run.began_s, run.ended_s)),
        key=lambda run: scheduler.units[run.label].node.key,
    ):
        in_order = list(runs)
        assert all(run.ending is not Ending.DONE for run in in_order[:-1])
        assert all(first.ended_s <= second.began_s for first, second in itertools.pairwise(in_order))


@settings(max_examples=100)
@given(cases(), st.floats(0, 40))
def test_a_growing_run_that_is_cancelled_ends_within_the_grace_time(case: Case, cancel_s: float) -> None:
    """Ctrl-C in the middle of a search, whatever it is just stopping or adding."""
    state, machine, scheduler = drive_case(case, cancel_s=cancel_s)
    if state is State.CANCELLED:
        assert machine.now_s <= cancel_s + 3.0 + 1.0
        assert all(not unit.is_open for unit in scheduler.units.values())
        assert all(execution.began_s <= cancel_s + 0.26 for execution in machine.executions)


@settings(max_examples=100)
@given(cases())
def test_a_growing_run_is_the_same_twice(case: Case) -> None:
    """A failure that depends on the order of a set could never be found again."""
    (_, first, _), (_, second, _) = drive_case(case), drive_case(case)
    assert first.executions == second.executions
    assert first.events == second.events


@settings(max_examples=100)
@given(cases())
def test_counts_of_a_group_are_those_of_its_nodes(case: Case) -> None:
    """The state of a trial is read from counters, a thousand times a second."""
    _, _, scheduler = drive_case(case)
    for group in scheduler.graph.groups.values():
        found = [scheduler.units[label].state for label in group.labels]
        assert all(group.counts[state] == found.count(state) for state in State)
        assert group.num_open == sum(state not in FINAL for state in found)
