"""What is to be done with a node that has its key: by the store's records and by what becomes of the nodes before it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.errors import PlanError
from orchestrator.store.artifacts import Artifacts, Record
from orchestrator.workflow.plan import PlanNode, Status, unmet_condition

Holder = Callable[[str], str | None]
"""Which run makes the artifact of a key right now, or None."""


def nobody(_key: str) -> str | None:
    """Nothing is being made by others."""
    return None


@dataclass
class StatusRules:
    """Decides for one node after the other, parents first.

    Attributes:
        asked_again: keys that are to be made again although a record stands. By key, since a twin may come first.
        drift: whether hits that were made by other code are to be made again.
        first_with_key: filled on the way: label of the node that makes a key for its twins; None where twins do not matter.
    """

    artifacts: Artifacts
    is_being_made: Holder = nobody
    asked_again: frozenset[str] = frozenset()
    drift: bool = False
    first_with_key: dict[str, str] | None = field(default_factory=dict)

    def apply(self, node: PlanNode, known: Mapping[str, PlanNode]) -> PlanNode:
        """`node` with its record and status; `known` holds its parents by label. A parent that is not there says nothing."""
        if node.existing is not None:
            return replace(node, record=self._existing_record(node), status=Status.HIT)
        parents = [known[parent] for parent in node.parents if parent in known]
        node = replace(node, record=self.artifacts.find(node.spec.name, node.key))
        is_asked = node.key in self.asked_again or (self.drift and node.has_drifted)
        forced = is_asked or any(parent.forced for parent in parents)
        twin = self.first_with_key.get(node.key) if self.first_with_key is not None else None
        status, note = Status.RUN, ""
        skipped = next((parent.label for parent in parents if parent.status is Status.SKIP), None)
        unmet = _unmet_condition(node, known)
        if skipped is not None:
            status, note = Status.SKIP, f"needs {skipped}, which is skipped"
        elif unmet:
            status, note = Status.SKIP, unmet
        elif twin is not None:
            status, note = Status.SHARED, f"same as {twin}"
        elif node.record is not None and not forced:
            status = Status.HIT
        elif (run := self.is_being_made(node.key)) is not None:
            status, note = Status.WAIT, f"run {run} is making it now"
        elif forced:
            note = "asked to run again" if is_asked else "follows a node that runs again"
        if self.first_with_key is not None and node.when is None and status is not Status.SKIP:
            self.first_with_key.setdefault(node.key, node.label)  # a node that may yet be skipped makes nothing for others
        return replace(node, status=status, forced=forced and status is Status.RUN, note=note)

    def _existing_record(self, node: PlanNode) -> Record:
        record = self.artifacts.find(node.spec.name, node.key)
        if record is None:
            raise PlanError(
                f'"{node.label}": artifact {node.key[:8]} of {node.spec.name} has just gone from the store',
                next_step="orchestrator artifacts names",
            )
        return record


def with_status(
    nodes: Mapping[str, PlanNode],
    artifacts: Artifacts,
    *,
    outer: Iterable[PlanNode] = (),
    is_being_made: Holder = nobody,
) -> dict[str, PlanNode]:
    """Nodes that join a running plan, such as those of a trial: HIT where a record stands, else RUN (or WAIT, or SKIP).

    `outer` are their parents among the nodes there are, of which those that run again make these run again too. Twins are the
    engine's business: it knows all that runs.
    """
    rules = StatusRules(artifacts, is_being_made, first_with_key=None)
    known = {node.label: node for node in outer}
    result: dict[str, PlanNode] = {}
    for label, node in nodes.items():
        result[label] = known[label] = rules.apply(node, known)
    return result


def _unmet_condition(node: PlanNode, known: Mapping[str, PlanNode]) -> str:
    """Why the node's condition does not hold, where that can be known already; else an empty text."""
    if node.when is None:
        return ""
    label, condition = node.when
    source = known.get(label)
    if source is None or source.status is not Status.HIT or source.record is None:
        return ""
    return unmet_condition(condition, {**source.record.metrics, **source.record.measurements})
