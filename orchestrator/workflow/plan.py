"""From a checked workflow to a plan: every node with its key, and whether it is a hit. Reads records, runs nothing, writes
nothing, and needs neither ray nor torch. `submit` executes the very object that `plan` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from orchestrator.errors import PlanError, UsageError
from orchestrator.store.artifacts import Artifacts, Record
from orchestrator.workflow.check import CheckedWorkflow
from orchestrator.workflow.drift import source_digest
from orchestrator.workflow.expand import Axis, Instance, expand_node
from orchestrator.workflow.identity import NotEncodable, artifact_identity, artifact_key
from orchestrator.workflow.spec import Node, When
from stages.contract import StageSettings, StageSpec


class Status(StrEnum):
    """What the plan has in store for a node."""

    HIT = "HIT"  # finished before; will be used as it is
    RUN = "RUN"  # will run
    SHARED = "SHARED"  # another node of this plan has the same key: one of them runs
    WAIT = "WAIT"  # another run is making it now; this one will wait and use it
    SKIP = "SKIP"  # its `when` condition is known not to hold, or it needs a node that is skipped


@dataclass(frozen=True, kw_only=True)
class PlanNode:
    """One node of the plan. `inputs` refer to labels of this plan; `forced` nodes run although a record stands."""

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

    @property
    def has_drifted(self) -> bool:
        """Whether the hit was made by other code than what stands here now."""
        return self.record is not None and self.record.source_digest != source_digest(self.spec.implementation)

    @cached_property
    def parents(self) -> tuple[str, ...]:
        """Labels of all nodes that must have ended before this one starts, without repeats."""
        labels = [label for value in self.inputs.values() for label in ([value] if isinstance(value, str) else value)]
        when = [self.when[0]] if self.when else []
        return tuple(dict.fromkeys([*labels, *self.after, *when]))


@dataclass(frozen=True)
class Selection:
    """Which nodes to run, by node name: `rerun` with all below, only up to `until`, only `start` and below."""

    rerun: tuple[str, ...] = ()
    until: tuple[str, ...] = ()
    start: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Nodes in an order in which they can run, by label."""

    checked: CheckedWorkflow
    nodes: Mapping[str, PlanNode]
    selection: Selection = field(default_factory=Selection)

    @property
    def name(self) -> str:
        return self.checked.loaded.workflow.name

    def with_status(self, *statuses: Status) -> list[PlanNode]:
        """Nodes in one of the given states."""
        return [node for node in self.nodes.values() if node.status in statuses]

    @property
    def has_work(self) -> bool:
        """Whether anything would run or be waited for."""
        return any(node.status in (Status.RUN, Status.WAIT) for node in self.nodes.values())

    @property
    def drifted(self) -> list[PlanNode]:
        """Hits that were made by other code."""
        return [node for node in self.nodes.values() if node.status is Status.HIT and node.has_drifted]


def make_plan(
    checked: CheckedWorkflow,
    artifacts: Artifacts,
    *,
    selection: Selection = Selection(),
    is_being_made: Callable[[str], str | None] = lambda _key: None,
) -> Plan:
    """The plan of a workflow against what the store holds.

    `is_being_made(key)` names the run that makes an artifact right now, or None. Raises PlanError for values that cannot be
    part of a key, UsageError for a selection that names no node.
    """
    nodes = {node.label: node for node in _keyed_nodes(checked)}
    nodes = _selected(nodes, checked, selection)
    drift = "drifted" in selection.rerun
    planned: dict[str, PlanNode] = {}
    first_with_key: dict[str, str] = {}
    asked_again = {node.key for node in nodes.values() if node.node in selection.rerun}  # by key: a twin may come first
    for label, node in nodes.items():
        parents = [planned[parent] for parent in node.parents]
        record = artifacts.find(node.spec.name, node.key)
        forced = node.key in asked_again or any(parent.forced for parent in parents)
        node = replace(node, record=record)  # noqa: PLW2901 - each step refines the same node
        forced = forced or (drift and node.has_drifted)
        status, note = Status.RUN, ""
        skipped = next((parent.label for parent in parents if parent.status is Status.SKIP), None)
        unmet = _unmet_condition(node, planned)
        if skipped is not None:
            status, note = Status.SKIP, f"needs {skipped}, which is skipped"
        elif unmet:
            status, note = Status.SKIP, unmet
        elif node.key in first_with_key:
            status, note = Status.SHARED, f"same as {first_with_key[node.key]}"
        elif record is not None and not forced:
            status = Status.HIT
        elif (run := is_being_made(node.key)) is not None:
            status, note = Status.WAIT, f"run {run} is making it now"
        elif forced:
            note = "asked to run again" if node.node in selection.rerun or drift else "follows a node that runs again"
        if node.when is None and status is not Status.SKIP:  # a node that may yet be skipped makes nothing for others
            first_with_key.setdefault(node.key, label)
        planned[label] = replace(node, status=status, forced=forced and status is Status.RUN, note=note)
    _require_hits_above(planned, nodes, selection)
    return Plan(checked, planned, selection)


def _keyed_nodes(checked: CheckedWorkflow) -> list[PlanNode]:
    workflow = checked.loaded.workflow
    made: dict[str, list[Instance]] = {}
    texts: dict[Axis, Sequence[str]] = {}
    keys: dict[str, str] = {}
    result = []
    for name in checked.order:
        node, spec = workflow.nodes[name], checked.specs[name]
        made[name] = expand_node(name, node, spec, made, texts)
        for instance in made[name]:
            settings = _settings(spec, instance)
            seed = workflow.seed if node.seed is None else node.seed
            inputs = {
                port: keys[value] if isinstance(value, str) else [keys[label] for label in value]
                for port, value in instance.inputs.items()
            }
            try:
                identity = artifact_identity(spec, settings=settings, seed=seed, inputs=inputs)
            except NotEncodable as error:
                raise PlanError(f'node "{instance.label}": {error}') from error
            keys[instance.label] = artifact_key(identity)
            condition = (instance.when_label, node.when) if instance.when_label is not None and node.when is not None else None
            result.append(
                PlanNode(
                    label=instance.label, node=name, spec=spec, settings=settings, seed=seed, inputs=instance.inputs,
                    after=instance.needs, when=condition, asked=node, identity=identity, key=keys[instance.label],
                )
            )  # fmt: skip
        if not made[name]:
            raise PlanError(
                f'node "{name}": no combination of its inputs fits together: they come from different values of one foreach',
                next_step="give its ports references that share their foreach values",
            )
    return result


def _settings(spec: StageSpec, instance: Instance) -> StageSettings:
    try:
        return spec.settings(**instance.params)
    except ValidationError as error:  # each value was checked alone; only their combination can still be refused
        reason = "; ".join(detail["msg"] for detail in error.errors())
        raise PlanError(f'node "{instance.label}": {reason}', next_step=f"orchestrator stages show {spec.name}") from error


def _selected(nodes: dict[str, PlanNode], checked: CheckedWorkflow, selection: Selection) -> dict[str, PlanNode]:
    names = checked.loaded.workflow.nodes
    for asked in (*selection.rerun, *selection.until, *selection.start):
        if asked not in names and asked != "drifted":
            raise UsageError(f'the workflow has no node "{asked}"; it has {", ".join(names)}')
    wanted = set(nodes)
    if selection.until:
        wanted = _with_parents(nodes, {label for label, node in nodes.items() if node.node in selection.until})
    if selection.start:
        below = {label for label, node in nodes.items() if node.node in selection.start}
        for label, node in nodes.items():
            if any(parent in below for parent in node.parents):
                below.add(label)
        wanted &= _with_parents(nodes, below)
        if not wanted & below:
            raise UsageError(
                f"--from {', '.join(selection.start)} with --until {', '.join(selection.until)} leaves nothing to do",
                next_step="name a later node with --until, or an earlier one with --from",
            )
    return {label: node for label, node in nodes.items() if label in wanted}


def _with_parents(nodes: Mapping[str, PlanNode], labels: set[str]) -> set[str]:
    wanted = set(labels)
    for label in reversed(list(nodes)):
        if label in wanted:
            wanted.update(nodes[label].parents)
    return wanted


def _require_hits_above(planned: Mapping[str, PlanNode], nodes: Mapping[str, PlanNode], selection: Selection) -> None:
    if not selection.start:
        return
    below: set[str] = set()
    for label, node in nodes.items():
        if node.node in selection.start or any(parent in below for parent in node.parents):
            below.add(label)
        elif planned[label].status in (Status.RUN, Status.WAIT):
            raise UsageError(
                f'--from {", ".join(selection.start)} needs "{label}", which has not been made yet',
                next_step="submit without --from, or with --from naming an earlier node",
            )


def _unmet_condition(node: PlanNode, planned: Mapping[str, PlanNode]) -> str:
    """Why the node's condition does not hold, where that can be known already; else an empty text."""
    if node.when is None:
        return ""
    label, condition = node.when
    source = planned[label]
    if source.status is not Status.HIT or source.record is None:
        return ""
    return unmet_condition(condition, {**source.record.metrics, **source.record.measurements})


def unmet_condition(condition: When, metrics: Mapping[str, Any]) -> str:
    """Why a `when` condition does not hold for these metrics; empty if it holds. A missing metric does not meet it."""
    name = condition.metric.partition(".")[2]
    value = metrics.get(name)
    if not isinstance(value, (int, float)):
        return f"when: {condition.metric} was not reported"
    if condition.min is not None and value < condition.min:
        return f"when: {condition.metric} is {value:.6g}, below {condition.min:.6g}"
    if condition.max is not None and value > condition.max:
        return f"when: {condition.metric} is {value:.6g}, above {condition.max:.6g}"
    return ""
