"""Searches of a simulated run: their foreseen trials enter it as there is room, and then what waits for their best.

The guide of a scheduler in virtual time; proposes nothing and stops nothing early.
"""

from __future__ import annotations

from orchestrator.engine.executors.simulated import SimulatedCluster
from orchestrator.engine.scheduler import Scheduler
from orchestrator.engine.units import GroupState, State
from orchestrator.report.foreseen import Foreseen
from orchestrator.workflow.plan import PlanNode, Status

CLOSED = (State.FAILED, State.BLOCKED, State.SKIPPED, State.CANCELLED)


class ForeseenSearches:
    """The guide: begins the trials of each sweep when what it needs is there, as many as fit, and then what waits for it."""

    def __init__(self, foreseen: Foreseen, world: SimulatedCluster) -> None:
        self._foreseen = foreseen
        self._world = world
        self._left = {name: list(reversed(drawn)) for name, drawn in foreseen.trials.items()}
        self._running: dict[str, list[str]] = {name: [] for name in foreseen.trials}
        self._settled: set[str] = set()
        self._later = [node for node in foreseen.plan.nodes.values() if waits_for_sweep(node, foreseen)]
        for drawn in foreseen.trials.values():
            for trial in drawn:
                for node in trial.values():
                    if node.status is Status.HIT and node.record is not None:
                        world.done[node.key] = node.record

    def advance(self, scheduler: Scheduler) -> bool:
        for name in [name for name in self._left if name not in self._settled]:
            self._advance_sweep(name, scheduler)
        self._add_later(scheduler)
        return any(self._running.values()) or any(
            name not in self._settled and self._can_begin(name, scheduler) for name in self._left
        )

    def look(self, scheduler: Scheduler) -> None:
        """Nothing runs in the scheduler's own thread here."""

    def _can_begin(self, name: str, scheduler: Scheduler) -> bool:
        """Whether it has begun, or may yet: what it needs is in the run and has not come to nothing."""
        units = scheduler.units
        return all(label in units and units[label].state not in CLOSED for label in self._foreseen.sweeps[name].after)

    def _advance_sweep(self, name: str, scheduler: Scheduler) -> None:
        sweep = self._foreseen.sweeps[name]
        units = scheduler.units
        if not all(label in units and units[label].state is State.DONE for label in sweep.after):
            return
        running = self._running[name]
        running[:] = [group for group in running if scheduler.group_state(group) is GroupState.RUNNING]
        settings = sweep.checked.node.sweep
        room = settings.max_concurrent or scheduler.room_for(node.resources for node in sweep.checked.node.nodes.values())
        while self._left[name] and len(running) < room:
            trial = self._left[name].pop()
            group = next(iter(trial)).rpartition("/")[0]
            scheduler.add(trial.values(), group=group)
            running.append(group)
        if not running and not self._left[name]:
            self._settled.add(name)

    def _add_later(self, scheduler: Scheduler) -> None:
        """Nodes whose sweeps have settled and whose other parents are in the run."""
        left, ready = [], []
        known = set[str]()
        for node in self._later:
            is_free = all(name in self._settled for name in sweeps_before(node, self._foreseen))
            if is_free and all(parent in scheduler.units or parent in known for parent in node.parents):
                ready.append(node)
                known.add(node.label)
            else:
                left.append(node)
        if ready:
            self._later = left
            scheduler.add(ready)


def sweeps_before(node: PlanNode, foreseen: Foreseen) -> list[str]:
    """The sweeps whose best or front a node, or the sweep it is part of, refers to directly."""
    targets = foreseen.plan.checked.targets.get(node.name, ())
    return [] if node.name in foreseen.sweeps else [target for target in targets if target in foreseen.sweeps]


def waits_for_sweep(node: PlanNode, foreseen: Foreseen) -> bool:
    """Whether it enters the run later than the first plan: nodes of trials, and all that needs one."""
    if node.name in foreseen.sweeps:
        return True
    waiting, seen = [node.name], set[str]()
    while waiting:
        for target in foreseen.plan.checked.targets.get(waiting.pop(), ()):
            if target in foreseen.sweeps:
                return True
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return False
