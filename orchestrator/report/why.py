"""Why a node has to run, in full: every field, input and change of code that sets it apart from the nearest artifact."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.report.text import Style, format_time, format_value
from orchestrator.store.artifacts import Artifacts
from orchestrator.workflow.explain import Difference, Explainer, Explanation
from orchestrator.workflow.plan import Plan, PlanNode, Status


def explained_nodes(plan: Plan, name: str) -> list[PlanNode]:
    """The node with this label, all instances of the node with this name, or a trial's nodes; UsageError says what there is."""
    if name in plan.nodes:
        return [plan.nodes[name]]
    found = [node for node in plan.nodes.values() if node.node == name or node.label.rpartition("/")[0] == name]
    if found:
        return found
    if name.partition("/")[0] in plan.sweeps and "/" in name:
        raise UsageError(
            f'trial "{name}" is not in the plan: of a sweep it holds the best and the front, once that has settled',
            next_step=f"orchestrator compare @last/{name} @last/{name.partition('/')[0]}/best",
        )
    names = list(dict.fromkeys([*(node.node for node in plan.nodes.values()), *plan.nodes]))
    near = difflib.get_close_matches(name, names, n=1)
    known = ", ".join(dict.fromkeys(node.node for node in plan.nodes.values()))
    hint = f'; did you mean "{near[0]}"?' if near else ""
    raise UsageError(
        f'the plan has no node "{name}"; it has {known}{hint}', next_step=f"orchestrator plan {plan.checked.loaded.file}"
    )


def why_lines(plan: Plan, nodes: Iterable[PlanNode], artifacts: Artifacts, *, style: Style) -> list[str]:
    """What `plan --why` prints: one paragraph for each node."""
    explainer = Explainer(plan, artifacts)
    lines: list[str] = []
    for node in nodes:
        lines.append(f"{style.word(node.status.value)}  {node.label}  {node.key}")
        lines += [f"        {line}" for line in _reasons(explainer, node)]
    return lines


def why_documents(plan: Plan, nodes: Iterable[PlanNode], artifacts: Artifacts) -> list[dict[str, Any]]:
    """The same as data."""
    explainer = Explainer(plan, artifacts)
    documents = []
    for node in nodes:
        found = explainer.explain(node)
        documents.append(
            {
                "label": node.label,
                "status": node.status.value,
                "key": node.key,
                "reason": explainer.reason(node),
                "nearest": found.nearest.key if found.nearest else None,
                "differences": [vars(difference) for difference in found.differences],
                "code_changed": found.code_changed,
            }
        )
    return documents


def _reasons(explainer: Explainer, node: PlanNode) -> list[str]:
    found = explainer.explain(node)
    if node.status is Status.HIT and found.nearest is not None:
        made = f"finished {format_time(found.nearest.finished)} by run {found.nearest.run}; it will be used as it is"
        drift = ["stage code changed since; --strict would run it again"] if found.code_changed else []
        return [made, *drift]
    if node.note:
        return [node.note, *(["stage code changed since the record"] if found.code_changed and node.forced else [])]
    if found.nearest is None:
        return [f"no artifact of stage {node.spec.name} has been made here before"]
    nearest = found.nearest
    lines = [f"nearest record: {nearest.label}  {nearest.key[:8]}, finished {format_time(nearest.finished)}, run {nearest.run}"]
    lines += difference_lines(found.differences)
    waits = _open_parents(explainer.plan, node, found)
    if waits:
        lines.append(f"follows {', '.join(waits)}, which will run too")
    if found.code_changed:
        lines.append("code: the stage's source changed since that record (by itself no reason to run)")
    return lines


def difference_lines(differences: Sequence[Difference]) -> list[str]:
    """One line for each field that differs: what it was, and what it is now."""
    lines = []
    for difference in differences:
        group, _, name = difference.field.partition(".")
        word = {"settings": "parameter", "inputs": "input"}.get(group)
        field = f"{word} {name}" if word and name else difference.field
        lines.append(f"{field}: {_value(difference.before)} -> {_value(difference.now)}")
    return lines


def _value(value: Any) -> str:
    """A key is shown as keys are shown everywhere; nothing stands for a field that is not there."""
    if value is None:
        return "nothing"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    text = format_value(value)
    return text[:8] if len(text) == 32 and all(letter in "0123456789abcdef" for letter in text) else text


def _open_parents(plan: Plan, node: PlanNode, found: Explanation) -> list[str]:
    if not any(difference.field.startswith("inputs") for difference in found.differences):
        return []
    return [label for label in node.parents if plan.nodes[label].status in (Status.RUN, Status.WAIT)]
