"""What may be asked of a run while it goes on: by its guide, and by whoever reports. Changes nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.engine.admission import Admission
from orchestrator.engine.graph import Graph
from orchestrator.engine.units import GroupState, Unit
from orchestrator.workflow.spec import Resources


class RunView:
    """A run's nodes and groups, read."""

    graph: Graph
    admission: Admission

    @property
    def units(self) -> Mapping[str, Unit]:
        """Every node of the run, by label."""
        return self.graph.units

    def group_state(self, group: str) -> GroupState:
        """Where a group stands; costs nothing."""
        return self.graph.groups[group].state

    def is_given_up(self, group: str) -> bool:
        """Whether somebody asked the group to stop while the run goes on."""
        return group in self.graph.given_up

    def is_stopping(self, group: str) -> bool:
        """Whether a node of the group still runs that was asked to stop because nobody wants it."""
        return any(self.units[label].unwanted_at is not None for label in self.graph.groups[group].labels)

    def room_for(self, requests: Iterable[Resources]) -> int:
        """How many nodes with the largest of these requests run at once; at least 1."""
        return self.admission.room_for(requests)

    def metrics_of(self, label: str) -> Mapping[str, Any]:
        """Metrics and measurements of a node that is done; empty before."""
        return self.units[label].metrics

    def error_of(self, label: str) -> str:
        """Why a node failed, or which failed one it needed; empty if it did not."""
        return self.units[label].error

    def seconds_of(self, label: str) -> float:
        """Seconds that attempts at this very node took in this run, failed and stopped ones too; 0.0 for hits and shares."""
        return self.units[label].spent_s

    def folder_of(self, label: str) -> str:
        """The ledger's folder of a node's progress: while it leaves the work to another node, of that one."""
        unit = self.units[label]
        return (self.units[unit.maker] if unit.maker and not unit.attempt else unit).folder
