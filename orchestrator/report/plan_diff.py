"""What a plan would make otherwise than a run did: nodes that are new, gone, or have another key, and by which setting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.report.run_status import RunStatus
from orchestrator.report.text import Column, Style, format_table, plural
from orchestrator.report.why import difference_lines
from orchestrator.workflow.explain import Difference, identity_differences
from orchestrator.workflow.plan import Plan

Identities = Callable[[], Mapping[str, Mapping[str, Any]]]
"""By key, what made each artifact of the run; asked for only where something differs."""


@dataclass(frozen=True, kw_only=True)
class NodeChange:
    """One node that differs. `word` is NEW, GONE or DIFF; keys are empty where there is no node."""

    word: str
    label: str
    before: str
    now: str
    differences: tuple[Difference, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PlanDiff:
    """A plan beside a run; `same` counts the nodes with equal keys. Sweeps stand among the nodes, their trials do not."""

    run: str
    same: int
    changes: tuple[NodeChange, ...]


def diff_plan(plan: Plan, status: RunStatus, identities: Identities) -> PlanDiff:
    """Compare a plan with what a run was asked for, by label."""
    before = {node.label: node.key for node in status.nodes.values() if not node.is_of_trial}
    before |= {name: sweep.key for name, sweep in status.sweeps.items() if sweep.key}
    now = {node.label: node.key for node in plan.nodes.values() if "." not in node.node}
    now |= {name: sweep.key for name, sweep in plan.sweeps.items() if name in before}
    changes = []
    for label in [*now, *(label for label in before if label not in now and label not in plan.later)]:
        if before.get(label) == now.get(label):
            continue
        word = "NEW" if label not in before else "GONE" if label not in now else "DIFF"
        found: tuple[Difference, ...] = ()
        if word == "DIFF" and label in plan.nodes:
            node, old = plan.nodes[label], identities().get(before[label])
            found = identity_differences(node.spec, old, node.identity) if old is not None else ()
        changes.append(
            NodeChange(word=word, label=label, before=before.get(label, ""), now=now.get(label, ""), differences=found)
        )
    same = sum(before.get(label) == key for label, key in now.items())
    return PlanDiff(run=status.id, same=same, changes=tuple(changes))


def diff_lines(diff: PlanDiff, *, style: Style, width: int | None) -> list[str]:
    """The changes as a table; of each node the differences that are its own come first."""
    if not diff.changes:
        return [f"nothing differs from run {diff.run}: {plural(diff.same, 'node')} with equal keys"]
    rows = [
        [change.word, change.label, change.before[:8] or "-", change.now[:8] or "-", _what(change)] for change in diff.changes
    ]
    columns = [Column("CHANGE"), Column("NODE"), Column("RUN"), Column("PLAN"), Column("BY")]
    total = f"{plural(len(diff.changes), 'node')} differ from run {diff.run}, {diff.same} have equal keys"
    return [*format_table(columns, rows, style=style, width=width, last_lines=3), f"{style.paint('total', 'total')}   {total}"]


def diff_document(diff: PlanDiff) -> dict[str, Any]:
    """The same as data."""
    changes = [{**vars(change), "differences": [vars(each) for each in change.differences]} for change in diff.changes]
    return {"run": diff.run, "same": diff.same, "changes": changes}


def _what(change: NodeChange) -> str:
    own = [difference for difference in change.differences if not difference.field.startswith("inputs")]
    if own:
        return "; ".join(difference_lines(own))
    ports = dict.fromkeys(each.field.split(".")[1].partition("[")[0] for each in change.differences)
    return f"follows its input {', '.join(ports)}" if ports else ""
