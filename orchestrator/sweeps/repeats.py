"""The finalists of a search, run again with further seeds. Knows no statistics: `choice` says who they are and who wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.engine.scheduler import Scheduler
from orchestrator.engine.units import GroupState
from orchestrator.sweeps.trial_plans import TrialPlans
from orchestrator.workflow.sweep_result import TrialRecord

GroupMetrics = Callable[[str, Scheduler], Mapping[str, Any]]
"""Metrics by "node.metric" of all nodes of a group."""


@dataclass
class Repeats:
    """Each finalist with each seed, all at once; `begin` is called once, when all trials have ended."""

    plans: TrialPlans
    metrics_of: GroupMetrics
    _groups: dict[int, list[str]] = field(default_factory=dict)

    def begin(self, chosen: Sequence[TrialRecord], *, seeds: Sequence[int], scheduler: Scheduler) -> None:
        """Add the nodes; those that stand in the store cost nothing."""
        for record in chosen:
            self._groups[record.number] = []
            for seed in seeds:
                nodes = self.plans.plan(record.number, record.values, parent=record.parent, seed=seed)
                group = self.plans.group(record.number, seed=seed)
                self.plans.join(nodes, scheduler, group=group, parent=record.parent)
                self._groups[record.number].append(group)

    def have_ended(self, scheduler: Scheduler) -> bool:
        """Whether all are done or have failed; those of a run that is being stopped have not."""
        states = {scheduler.group_state(group) for groups in self._groups.values() for group in groups}
        return not states & {GroupState.RUNNING, GroupState.CANCELLED}

    def metrics(self, scheduler: Scheduler) -> dict[int, tuple[Mapping[str, Any], ...]]:
        """By the finalist's number, in the order of the seeds; nothing of one that failed."""
        return {
            number: tuple(
                self.metrics_of(group, scheduler) if scheduler.group_state(group) is GroupState.DONE else {} for group in groups
            )
            for number, groups in self._groups.items()
        }
