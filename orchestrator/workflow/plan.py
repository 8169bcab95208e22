"""A plan as data: every node with its key and whether it is a hit, every sweep, and what waits for one.

`make_plan` (in `planning`) fills it; `submit` executes the very object that `plan` prints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from orchestrator.store.artifacts import Record
from orchestrator.workflow.check import CheckedSweep, CheckedWorkflow
from orchestrator.workflow.drift import source_digest
from orchestrator.workflow.references import ExistingArtifact, split_metric
from orchestrator.workflow.spec import Node, When
from orchestrator.workflow.sweep_result import SweepResult
from stages.contract import StageSettings, StageSpec

DRIFTED = "drifted"
"""Among the names to rerun: all hits that were made by other code (`--strict`)."""


class Status(StrEnum):
    """What the plan has in store for a node."""

    HIT = "HIT"  # finished before; will be used as it is
    RUN = "RUN"  # will run
    SHARED = "SHARED"  # another node of this plan has the same key: one of them runs
    WAIT = "WAIT"  # another run is making it now; this one will wait and use it
    SKIP = "SKIP"  # its `when` condition is known not to hold, or it needs a node that is skipped


class SweepStatus(StrEnum):
    """What the plan has in store for a sweep."""

    HIT = "HIT"  # settled before: its result is used as it is
    SEARCH = "SEARCH"  # will search
    SKIP = "SKIP"  # it needs a node that is skipped


@dataclass(frozen=True, kw_only=True)
class PlanNode:
    """One node of the plan. `inputs` refer to labels of this plan; `forced` nodes run although a record stands.

    One with `existing` is no node of the file but what a node refers to: it is a hit, and can never run.

    Of a sweep's trial, `label` is "search/t0007/sparsify" and `node` is "search.sparsify".
    """

    label: str
    node: str
    spec: StageSpec
    settings: StageSettings
    seed: int
    inputs: Mapping[str, str | tuple[str, ...]]
    after: tuple[str, ...]
    when: tuple[str, When] | None
    asked: Node
    identity: Mapping[str, Any]
    key: str
    status: Status = Status.RUN
    record: Record | None = None
    forced: bool = False
    note: str = ""
    existing: ExistingArtifact | None = None

    @property
    def name(self) -> str:
        """The node's name in the file, or that of the sweep it is part of."""
        return self.node if self.existing is not None else self.node.partition(".")[0]

    @property
    def has_drifted(self) -> bool:
        """Whether the hit was made by other code than what stands here now."""
        if self.existing is not None:
            return False
        return self.record is not None and self.record.source_digest != source_digest(self.spec.implementation)

    @cached_property
    def parents(self) -> tuple[str, ...]:
        """Labels of all nodes that must have ended before this one starts, without repeats."""
        labels = [label for value in self.inputs.values() for label in ([value] if isinstance(value, str) else value)]
        when = [self.when[0]] if self.when else []
        return tuple(dict.fromkeys([*labels, *self.after, *when]))


@dataclass(frozen=True, kw_only=True)
class PlanSweep:
    """One sweep of the plan, all it waits for being planned.

    Attributes:
        outer: the plan's nodes that its nodes and constraints refer to, by the reference as it is written there.
        after: labels of all nodes that must have ended before it begins: those of `outer`, and those under `needs`.
        key, identity: of its artifact (stage name "sweep"); `family`: of its trial log (see `sweep_identity`).
        record: its artifact, where one stands; with status SEARCH one that is to be superseded (asked to search anew) or that
            cannot be read (to be set aside first).
        result: how it ended, where it is settled.
    """

    name: str
    checked: CheckedSweep
    outer: Mapping[str, PlanNode]
    after: tuple[str, ...]
    identity: Mapping[str, Any]
    key: str
    family: str
    status: SweepStatus = SweepStatus.SEARCH
    record: Record | None = None
    result: SweepResult | None = None
    forced: bool = False
    note: str = ""


@dataclass(frozen=True)
class Selection:
    """Which nodes to run, by name of a node or sweep: `rerun` with all below, only up to `until`, only `start` and below."""

    rerun: tuple[str, ...] = ()
    until: tuple[str, ...] = ()
    start: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Nodes in an order in which they can run, by label; among them those of settled sweeps' best and front trials.

    Attributes:
        sweeps: by name, those whose outer nodes are planned.
        later: names of nodes and sweeps that cannot be planned before a sweep has settled, and that sweep's name.
        skipped: names of nodes and sweeps that refer to the best trial of a sweep that has none, and why.
    """

    checked: CheckedWorkflow
    nodes: Mapping[str, PlanNode]
    selection: Selection = field(default_factory=Selection)
    sweeps: Mapping[str, PlanSweep] = field(default_factory=dict)
    later: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.checked.loaded.workflow.name

    def with_status(self, *statuses: Status) -> list[PlanNode]:
        """Nodes in one of the given states."""
        return [node for node in self.nodes.values() if node.status in statuses]

    @property
    def has_work(self) -> bool:
        """Whether anything would run, be searched or be waited for."""
        return any(node.status in (Status.RUN, Status.WAIT) for node in self.nodes.values()) or any(
            sweep.status is SweepStatus.SEARCH for sweep in self.sweeps.values()
        )

    @property
    def drifted(self) -> list[PlanNode]:
        """Hits that were made by other code."""
        return [node for node in self.nodes.values() if node.status is Status.HIT and node.has_drifted]


def unmet_condition(condition: When, metrics: Mapping[str, Any]) -> str:
    """Why a `when` condition does not hold for these metrics; empty if it holds. A missing metric does not meet it."""
    name = split_metric(condition.metric)[1]
    value = metrics.get(name)
    if not isinstance(value, (int, float)):
        return f"when: {condition.metric} was not reported"
    if condition.min is not None and value < condition.min:
        return f"when: {condition.metric} is {value:.6g}, below {condition.min:.6g}"
    if condition.max is not None and value > condition.max:
        return f"when: {condition.metric} is {value:.6g}, above {condition.max:.6g}"
    return ""
