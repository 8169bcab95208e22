"""What a run cost and what it did not have to: seconds spent, wasted, avoided by hits and by sharing; and per node."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from orchestrator.report.page.attempts import Attempt
from orchestrator.report.page.sources import Sources
from orchestrator.report.run_status import NodeStatus
from orchestrator.report.sweep_table import cost_text

HIT, SHARED = "hit", "shared"


def cost_document(sources: Sources, attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Node-seconds of the run by what became of them, and a row for each node of the workflow.

    Spent: by attempts that made an artifact. Wasted: by attempts that failed, were cancelled or whose work another process had
    done first. Avoided: what the records say that artifacts cost which this run found (hits), or made once for several nodes
    (sharing). Of sweeps the search itself says what it cost, trials of earlier runs among them.
    """
    nodes = list(sources.status.nodes.values())
    sources.look_ahead(nodes)
    lost_s = _by_label(attempts, "failed", "cancelled", "shared")
    first_of: dict[str, str] = {}
    rows: dict[str, dict[str, Any]] = {}
    for node in sorted(nodes, key=lambda node: not _was_made(node)):  # who made it comes before who shares it
        row = rows.setdefault(node.node, _empty_row(node))
        row["wanted"] += 1
        row["wasted_s"] += lost_s.get(node.label, 0.0)
        origin = _origin(node, is_first=node.key not in first_of, was_made_here=first_of.get(node.key) == "made")
        if _was_made(node):
            row["made"] += 1
            row["spent_s"] += node.seconds
            first_of.setdefault(node.key, "made")
        elif origin:
            record = sources.record_of_node(node)
            row[f"{origin}s" if origin == HIT else origin] += 1
            row[f"{origin}_s"] += record.seconds if record is not None else 0.0
            first_of.setdefault(node.key, origin)
        elif node.state == "failed":
            row["failed"] += 1
    order = {node.node: place for place, node in enumerate(nodes)}
    by_node = sorted(rows.values(), key=lambda row: order.get(row["node"], 0))
    spent_s, hit_s, shared_s, wasted_s = (
        sum(row[name] for row in by_node) for name in ("spent_s", "hit_s", "shared_s", "wasted_s")
    )
    alone_s = spent_s + hit_s + shared_s
    return {
        "spent_s": spent_s,
        "avoided_by_hits_s": hit_s,
        "avoided_by_sharing_s": shared_s,
        "wasted_s": wasted_s,
        "saving": 1 - spent_s / alone_s if alone_s > 0 else 0.0,
        "nodes": by_node,
        "sweeps": [
            {
                "sweep": found.name,
                "spent_s": found.sweep.spent_s,
                "avoided_s": found.sweep.avoided_s,
                "text": cost_text(found.sweep.spent_s, found.sweep.avoided_s),
            }
            for found in sources.sweeps
            if found.is_settled
        ],
        **_gpu_seconds(sources, by_node),
    }


def _gpu_seconds(sources: Sources, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Seconds times GPUs asked for, where any node asks for one."""
    if sources.checked is None:
        return {}
    workflow = sources.checked.loaded.workflow
    asked = {name: node.resources for name, node in workflow.nodes.items()}
    asked |= {f"{name}.{part}": node.resources for name, sweep in workflow.sweeps.items() for part, node in sweep.nodes.items()}
    gpus = {name: resources.gpus * resources.workers for name, resources in asked.items()}
    if not any(gpus.values()):
        return {}
    names = {"spent_s": "gpu_spent_s", "hit_s": "gpu_avoided_by_hits_s", "shared_s": "gpu_avoided_by_sharing_s"}
    names["wasted_s"] = "gpu_wasted_s"
    return {name: sum(row[column] * gpus.get(row["node"], 0.0) for row in rows) for column, name in names.items()}


def _by_label(attempts: Sequence[Attempt], *states: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for attempt in attempts:
        if attempt.state in states:
            found[attempt.label] = found.get(attempt.label, 0.0) + attempt.seconds
    return found


def _was_made(node: NodeStatus) -> bool:
    """Whether an attempt of this run made it."""
    return node.state == "done" and node.ending == "done"


def _origin(node: NodeStatus, *, is_first: bool, was_made_here: bool) -> str:
    """Where an artifact came from that this node did not make: found (hit), or made for another node too (shared)."""
    if node.state == "hit":
        return HIT if is_first and not was_made_here else SHARED
    return SHARED if node.state == "done" else ""


def _empty_row(node: NodeStatus) -> dict[str, Any]:
    counts = dict.fromkeys(("wanted", "made", "hits", "shared", "failed"), 0)
    return {
        "node": node.node,
        "stage": node.stage,
        **counts,
        **dict.fromkeys(("spent_s", "hit_s", "shared_s", "wasted_s"), 0.0),
    }
