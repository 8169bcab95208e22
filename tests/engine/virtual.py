"""The simulated cluster as tests use it: scripts of attempts by label, all events, and ways to ask what has happened."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.executors.simulated import NEVER_S, Attempt, Execution, SimulatedCluster
from orchestrator.engine.guide import Guide
from orchestrator.engine.scheduler import Event, RunOptions, Scheduler
from orchestrator.engine.units import State
from orchestrator.engine.work import Work
from orchestrator.workflow.plan import Plan, PlanNode

__all__ = ["NEVER_S", "Attempt", "Execution", "ScriptedGuide", "VirtualMachine", "drive", "scheduler_of", "trial_nodes"]


class VirtualMachine(SimulatedCluster):
    """`script[label]` lists the attempts at a node; the last one repeats."""

    def __init__(
        self,
        script: Mapping[str, Sequence[Attempt]] | None = None,
        *,
        shapes: Sequence[MachineShape] = (MachineShape(cpus=4),),
        max_at_once: int | None = None,
        **world: Any,
    ) -> None:
        super().__init__(self._scripted, shapes=shapes, max_at_once=max_at_once, **world)
        self.script = {label: list(attempts) for label, attempts in (script or {}).items()}
        self.events: list[Event] = []

    def _scripted(self, work: Work, number: int) -> Attempt:
        attempts = self.script.get(work.label, [Attempt()])
        return attempts[min(number, len(attempts)) - 1]

    def runs_of(self, label: str) -> list[Execution]:
        """The attempts of one node."""
        return [execution for execution in self.executions if execution.label == label]

    def kinds_of(self, label: str) -> list[str]:
        """The events of one node."""
        return [event["type"] for event in self.events if event.get("node") == label]

    def show(self, count_states: Any, *, is_final: bool = False) -> None:
        self.shown = count_states() if is_final else {}


def drive(
    plan: Plan,
    machine: VirtualMachine,
    *,
    options: RunOptions | None = None,
    guide: Guide | None = None,
    **asked: Any,
) -> tuple[State, Scheduler]:
    """Drive a plan to its end on the machine; hits of the plan are in its store from the start."""
    for node in plan.nodes.values():
        if node.record is not None:
            machine.done.setdefault(node.key, node.record)
    scheduler = scheduler_of(plan, machine, options=options, guide=guide, **asked)
    return scheduler.drive(), scheduler


def scheduler_of(
    plan: Plan,
    machine: VirtualMachine,
    *,
    options: RunOptions | None = None,
    guide: Guide | None = None,
    **asked: Any,
) -> Scheduler:
    """A scheduler on the machine, not yet driven."""
    return Scheduler(
        plan,
        run="run",
        executor=machine,
        shapes=machine.shapes,
        artifacts=machine,
        leases=machine,
        clock=machine,
        emit=machine.events.extend,
        options=options or RunOptions(),
        guide=guide,
        **asked,
    )


class ScriptedGuide:
    """Does what its script says at the given moments of the machine's time; more may come until the last is done."""

    def __init__(self, machine: VirtualMachine, actions: Sequence[tuple[float, Callable[[Scheduler], object]]]) -> None:
        self._machine = machine
        self._actions = deque(sorted(actions, key=lambda action: action[0]))

    def advance(self, scheduler: Scheduler) -> bool:
        while self._actions and self._machine.now_s >= self._actions[0][0]:
            self._actions.popleft()[1](scheduler)
        return bool(self._actions)

    def look(self, scheduler: Scheduler) -> None:
        """Nodes of this machine run beside the scheduler."""


def trial_nodes(plan: Plan, trial: str, *, outer: Collection[str] = ()) -> list[PlanNode]:
    """The plan's nodes as those of a trial: labelled search/TRIAL/NODE, save for the outer ones, which are left out."""

    def renamed(label: str) -> str:
        return label if label in outer else f"search/{trial}/{label}"

    return [
        replace(
            node,
            label=renamed(label),
            inputs={
                port: renamed(value) if isinstance(value, str) else tuple(renamed(each) for each in value)
                for port, value in node.inputs.items()
            },
            after=tuple(renamed(each) for each in node.after),
            when=(renamed(node.when[0]), node.when[1]) if node.when else None,
        )
        for label, node in plan.nodes.items()
        if label not in outer
    ]
