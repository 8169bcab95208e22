"""What tests of growing runs share: what a guide does at which second, and what became of a trial."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from virtual import Attempt, ScriptedGuide, VirtualMachine, drive

from orchestrator.engine.scheduler import Scheduler
from orchestrator.engine.work import Ending
from orchestrator.workflow.plan import Plan

HEAD = "version: 1\nname: w\nnodes:\n"
BASE = "base: {stage: probe.echo, params: {value: base}}\n"
FAILED = Attempt(1.0, Ending.FAILED)
HOURS = Attempt(9999.0)


def adding(nodes: Any, group: str) -> Callable[[Scheduler], None]:
    return lambda scheduler: scheduler.add(nodes, group=group)


def abandoning(group: str) -> Callable[[Scheduler], None]:
    return lambda scheduler: scheduler.abandon(group)


def run(plan: Plan, machine: VirtualMachine, *actions: tuple[float, Callable[[Scheduler], object]], **options: Any) -> Any:
    return drive(plan, machine, guide=ScriptedGuide(machine, actions), **options)


def states(scheduler: Scheduler, group: str) -> dict[str, str]:
    return {label.rpartition("/")[2]: scheduler.units[label].state.value for label in scheduler.graph.groups[group].labels}
