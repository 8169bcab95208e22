"""Why a node has to run: by which field, input or code it differs from the nearest earlier artifact of the same stage."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.store.artifacts import Artifacts, Record
from orchestrator.workflow.drift import source_digest
from orchestrator.workflow.plan import Plan, PlanNode, Status
from stages.contract import StageSpec

MAX_EXPLAINED = 200
"""Plans with more nodes to run than this explain none by themselves: each costs a comparison with every record."""


@dataclass(frozen=True)
class Difference:
    """One field that differs: its place in the identity, the value in the earlier artifact and the one asked for now."""

    field: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.field}: {_short(self.before)} -> {_short(self.now)}"


@dataclass(frozen=True)
class Explanation:
    """The nearest earlier artifact, if there is one, and all that differs from it."""

    nearest: Record | None
    differences: tuple[Difference, ...]
    code_changed: bool


class Explainer:
    """Compares nodes with the records of their stage, each stage's records being read once."""

    def __init__(self, plan: Plan, artifacts: Artifacts) -> None:
        self.plan = plan
        self.artifacts = artifacts
        self._records: dict[str, list[tuple[dict[str, Any], Record]]] = {}

    def explain(self, node: PlanNode) -> Explanation:
        """The fewest differences decide which artifact is nearest; among equals the newest."""
        if node.record is not None:
            return Explanation(node.record, (), node.has_drifted)
        digest = source_digest(node.spec.implementation)
        nearest = _nearest(self._stage_records(node.spec.name), node.key, node.identity)
        if nearest is None:
            return Explanation(None, (), code_changed=False)
        differences = identity_differences(node.spec, nearest.identity, node.identity)
        return Explanation(nearest, differences, nearest.source_digest != digest)

    def reason(self, node: PlanNode) -> str:
        """One line for the plan's WHY column."""
        if node.status is Status.HIT and node.record is not None:
            known_as = f"{node.existing.name}, " if node.existing is not None and node.existing.name else ""
            came_by = f"run {node.record.run}" if node.record.run else "imported"
            return f"{known_as}recorded {node.record.finished[:16].replace('T', ' ')}, {came_by}"
        if node.note or node.status is not Status.RUN:
            return node.note
        waits = [label for label in node.parents if self.plan.nodes[label].status in (Status.RUN, Status.WAIT)]
        found = self.explain(node)
        if found.nearest is None:
            return f"nothing like it was made before{f' (waits for {waits[0]})' if waits else ''}"
        own = [difference for difference in found.differences if not difference.field.startswith("inputs.")]
        if own:
            more = f" and {len(own) - 1} more" if len(own) > 1 else ""
            return f"{own[0]}{more} (nearest record {found.nearest.key[:8]})"
        changed = ", ".join(dict.fromkeys(difference.field.split(".")[1].partition("[")[0] for difference in found.differences))
        return f"input {changed} changed{f': follows {waits[0]}' if waits else ''}"

    def _stage_records(self, stage: str) -> list[tuple[dict[str, Any], Record]]:
        if stage not in self._records:
            self._records[stage] = [(flat_identity(record.identity), record) for record in self.artifacts.all_records(stage)]
        return self._records[stage]


def nearest_record(artifacts: Artifacts, stage: str, key: str, identity: Mapping[str, Any], *, before: str) -> Record | None:
    """The artifact of another key that differs least, among those finished before a time; among equals the newest."""
    records = [record for record in artifacts.all_records(stage) if record.finished < before]
    return _nearest([(flat_identity(record.identity), record) for record in records], key, identity)


def identity_differences(spec: StageSpec | None, before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Every field by which two identities differ, what is the node's own first; a setting left out has its default."""
    old, new = flat_identity(before), flat_identity(now)
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    names.sort(key=lambda name: name.startswith("inputs"))
    return tuple(Difference(name, _value(spec, name, old), _value(spec, name, new)) for name in names)


def flat_identity(value: Any, place: str = "") -> dict[str, Any]:
    """An identity as one value by dotted name."""
    if isinstance(value, Mapping):
        return {
            name: item for key in value for name, item in flat_identity(value[key], f"{place}.{key}" if place else key).items()
        }
    return {place: value}


def _nearest(records: Iterable[tuple[dict[str, Any], Record]], key: str, identity: Mapping[str, Any]) -> Record | None:
    wanted = flat_identity(identity)
    best: tuple[int, str] | None = None
    nearest: Record | None = None
    for fields, record in records:
        if record.key == key:
            continue
        distance = sum(fields.get(name) != wanted.get(name) for name in fields.keys() | wanted.keys())
        if best is None or distance < best[0] or (distance == best[0] and record.finished > best[1]):
            best, nearest = (distance, record.finished), record
    return nearest


def _value(spec: StageSpec | None, name: str, fields: Mapping[str, Any]) -> Any:
    """The value of an identity field; a setting that stays out of the identity has its default."""
    if name == "workers":
        return fields.get(name, 1)
    if name in fields or spec is None or not name.startswith("settings."):
        return fields.get(name)
    value = spec.settings.model_fields.get(name.split(".")[1])
    return value.get_default(call_default_factory=True) if value is not None else None


def _short(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return f"[{', '.join(_short(item) for item in value[:3])}{', ...' if len(value) > 3 else ''}]"
    text = str(value)
    return text[:8] if len(text) == 32 and all(letter in "0123456789abcdef" for letter in text) else text
