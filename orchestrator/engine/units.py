"""The scheduler's own view of a plan node: its state, how often it was tried, and who waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from orchestrator.engine.work import Outcome
from orchestrator.store.ledger import node_folder
from orchestrator.workflow.plan import Plan, PlanNode, Status

HOPELESS = ("TrainingDiverged", "ValidationError", "ValueError", "TypeError", "ImportError", "ModuleNotFoundError")
"""Exceptions that the same settings raise again: trying once more is a waste even where a node asks for it."""


class State(StrEnum):
    """Where a node stands in a run."""

    PENDING = "pending"  # waits for nodes before it
    READY = "ready"  # waits for a place to run
    RUNNING = "running"
    BUSY = "busy"  # another run is making it
    DELAYED = "delayed"  # will be tried again
    DONE = "done"
    FAILED = "failed"
    BLOCKED = "blocked"  # a node before it failed
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


@dataclass
class Unit:
    """One node while its plan is driven."""

    node: PlanNode
    index: int
    state: State = State.PENDING
    open_parents: set[str] = field(default_factory=set)
    children: dict[str, None] = field(default_factory=dict)  # by label, in the plan's order
    maker: str = ""  # the node with the same key that this one leaves the work to
    metrics: Mapping[str, Any] = field(default_factory=dict)
    attempt: int = 0
    ready_since: float = 0.0
    started_at: float = 0.0
    stop_asked_at: float | None = None
    wake_at: float = 0.0
    busy_wait_s: float = 0.0
    stale_lease: str = ""
    repaired_inputs: bool = False

    @property
    def label(self) -> str:
        return self.node.label

    @property
    def folder(self) -> str:
        return node_folder(self.node.node, self.node.key)

    @property
    def input_labels(self) -> list[str]:
        """Labels of the nodes whose artifacts this one reads (it may wait for others, too)."""
        return [label for value in self.node.inputs.values() for label in ([value] if isinstance(value, str) else value)]

    def is_hopeless(self, outcome: Outcome) -> bool:
        """Whether the same attempt would only fail in the same way again."""
        return outcome.error_type in HOPELESS

    def waits_for(self, parent: Unit) -> None:
        """Do not start before `parent` is done."""
        self.open_parents.add(parent.label)
        parent.children[self.label] = None


def build_units(plan: Plan) -> dict[str, Unit]:
    """Units by label, hits done and skips skipped, with the parents that are still open."""
    makers: dict[str, str] = {}
    units: dict[str, Unit] = {}
    for index, (label, node) in enumerate(plan.nodes.items()):
        unit = units[label] = Unit(node, index)
        if node.status is Status.HIT and node.record is not None:
            unit.state = State.DONE
            unit.metrics = {**node.record.metrics, **node.record.measurements}
        elif node.status is Status.SKIP:
            unit.state = State.SKIPPED
            continue
        else:
            unit.maker = makers.get(node.key, "") if node.status is Status.SHARED else ""
            for parent in dict.fromkeys([*node.parents, *filter(None, [unit.maker])]):
                if units[parent].state is not State.DONE:
                    unit.waits_for(units[parent])
        if node.when is None:
            makers.setdefault(node.key, label)
    return units
