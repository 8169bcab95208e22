"""A plan as a table: what will be done with each node, and why. Reads the plan that `submit` runs, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.report.text import Column, Style, format_table, plural
from orchestrator.store.artifacts import Artifacts
from orchestrator.workflow.explain import MAX_EXPLAINED, Explainer
from orchestrator.workflow.plan import Plan, PlanNode, Status

MAX_ROWS = 60
"""Plans with more nodes are shown by node name, with counts."""

KEY_LETTERS = 8


def plan_lines(plan: Plan, artifacts: Artifacts, *, place: str, style: Style, width: int | None) -> list[str]:
    """The table that `plan` prints and that `submit` prints first."""
    explainer = Explainer(plan, artifacts)
    is_explained = len(plan.with_status(Status.RUN)) <= MAX_EXPLAINED
    lines = [f"{style.paint(plan.name, 'bold')}  {plural(len(plan.nodes), 'node')}   store {place}"]
    if len(plan.nodes) > MAX_ROWS:
        lines += _summary(plan, style=style, width=width)
    else:
        rows = [
            [node.status.value, node.label, node.key[:KEY_LETTERS], why(explainer, node, is_explained=is_explained)]
            for node in plan.nodes.values()
        ]
        columns = [Column("STATUS", painted=True), Column("NODE"), Column("KEY"), Column("WHY")]
        lines += format_table(columns, rows, style=style, width=width)
    return [*lines, *drift_lines(plan, style=style), f"{style.paint('total', 'total')}   {totals(plan)}"]


def why(explainer: Explainer, node: PlanNode, *, is_explained: bool = True) -> str:
    """The WHY column of one node."""
    if not is_explained and node.status is Status.RUN and not node.note:
        return ""
    return explainer.reason(node).replace("settings.", "parameter ", 1)


def drift_lines(plan: Plan, *, style: Style) -> list[str]:
    """One line per node whose hits were made by other code than what stands here now."""
    word = style.paint(f"{'drift':<6}", "drift")
    return [
        f"{word}  {name}: stage code changed since the record; --rerun drifted would run it again"
        for name in dict.fromkeys(node.node for node in plan.drifted)
    ]


def totals(plan: Plan) -> str:
    """3 to run, 8 hits, 0 shared."""
    count = {status: len(plan.with_status(status)) for status in Status}
    parts = [f"{count[Status.RUN]} to run", plural(count[Status.HIT], "hit"), f"{count[Status.SHARED]} shared"]
    if count[Status.WAIT]:
        parts.append(f"{count[Status.WAIT]} made by other runs now")
    if count[Status.SKIP]:
        parts.append(f"{count[Status.SKIP]} skipped")
    return ", ".join(parts)


def plan_document(plan: Plan, artifacts: Artifacts) -> dict[str, Any]:
    """All that the table shows, as data."""
    explainer = Explainer(plan, artifacts)
    is_explained = len(plan.with_status(Status.RUN)) <= MAX_EXPLAINED
    drifted = {node.label for node in plan.drifted}
    return {
        "workflow": plan.name,
        "file": plan.checked.loaded.file,
        "overrides": list(plan.checked.loaded.overrides),
        "totals": {status.value: len(plan.with_status(status)) for status in Status},
        "nodes": [
            {
                "label": node.label,
                "node": node.node,
                "stage": node.spec.name,
                "status": node.status.value,
                "key": node.key,
                "why": why(explainer, node, is_explained=is_explained),
                "parents": list(node.parents),
                "forced": node.forced,
                "drifted": node.label in drifted,
            }
            for node in plan.nodes.values()
        ],
    }


def _summary(plan: Plan, *, style: Style, width: int | None) -> list[str]:
    counts: dict[str, dict[Status, int]] = {}
    stages: Mapping[str, str] = {node.node: node.spec.name for node in plan.nodes.values()}
    for node in plan.nodes.values():
        counts.setdefault(node.node, dict.fromkeys(Status, 0))[node.status] += 1
    shown = [status for status in Status if plan.with_status(status)]
    columns = [
        Column("NODE"), *(Column(status.value, right=True) for status in shown), Column("ALL", right=True), Column("STAGE")
    ]  # fmt: skip
    rows = [
        [name, *(str(count[status] or "-") for status in shown), str(sum(count.values())), stages[name]]
        for name, count in counts.items()
    ]
    return format_table(columns, rows, style=style, width=width)
