"""The graph of a run for reading: the boxes that `orchestrator graph` draws, with what became of each and what it cost.

Instances of `foreach` and the nodes of trials are told together, with counts: what differs between them is in the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.report.graph import Box, WorkflowGraph, states_of_run, workflow_graph
from orchestrator.report.page.sources import Sources
from orchestrator.report.run_status import NodeStatus
from orchestrator.report.status_table import node_word
from orchestrator.report.text import state_word

_FIRST = ("FAIL", "RUN", "RETRY", "WAIT", "CANCEL", "SKIP", "DONE", "SHARED", "HIT")
"""Of several instances' words the one that is told: what a person should look at first."""

_GOOD = ("DONE", "SHARED", "HIT")


def graph_document(sources: Sources, cost_rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Boxes with their state, seconds and counts, and the edges between them, by name; a sweep's node is "sweep.node"."""
    members: dict[str, list[NodeStatus]] = {}
    for node in sources.status.nodes.values():
        members.setdefault(node.node, []).append(node)
    costs = {row["node"]: row for row in cost_rows}
    graph = _graph(sources, members)
    words = {found.name: "HIT" if found.was_settled_before else state_word(found.sweep.state) for found in sources.sweeps}
    nodes = [_document(box, members.get(box.name, ()), costs.get(box.name), words, sources) for box in graph.boxes]
    return {"nodes": nodes, "edges": [list(edge) for edge in graph.edges], "has_edges": sources.checked is not None}


def _graph(sources: Sources, members: Mapping[str, Sequence[NodeStatus]]) -> WorkflowGraph:
    """The workflow's own; boxes alone where its text was written for another version, or stages are not installed here."""
    if sources.checked is not None:
        return workflow_graph(sources.checked, states_of_run(sources.status))
    boxes = [
        Box(name=name, stage=nodes[0].stage, group=name.partition(".")[0] if nodes[0].is_of_trial else "", counts={})
        for name, nodes in members.items()
    ]
    return WorkflowGraph(name=sources.status.workflow, boxes=tuple(boxes), edges=())


def _document(
    box: Box,
    nodes: Sequence[NodeStatus],
    cost: Mapping[str, Any] | None,
    sweep_words: Mapping[str, str],
    sources: Sources,
) -> dict[str, Any]:
    is_sweep = box.stage == "sweep"
    words = [node_word(node, sources.status) for node in nodes]
    waiting = "WAIT" if sources.is_live else "SKIP"
    word = sweep_words.get(box.name, waiting) if is_sweep else next((word for word in _FIRST if word in words), waiting)
    if word == "CANCEL" and box.group and sources.status.state == "done":
        word = next((other for other in _GOOD if other in words), word)  # trials that were stopped early are no failure
    only = nodes[0] if len(nodes) == 1 else None
    record = sources.record_of_node(only) if only is not None else None
    return {
        "node": box.name,
        "sweep": box.group or None,
        "is_sweep": is_sweep,
        "stage": box.stage,
        "detail": box.detail,
        "word": word,
        "instances": len(nodes),
        "words": {each: words.count(each) for each in _FIRST if each in words},
        "seconds": cost["spent_s"] if cost else 0.0,
        "avoided_s": cost["hit_s"] + cost["shared_s"] if cost else 0.0,
        "key": only.key if only is not None else None,
        "size_bytes": record.size_bytes if record is not None else None,
        "attempt": only.attempt if only is not None else None,
        "note": _note(nodes),
    }


def _note(nodes: Iterable[NodeStatus]) -> str:
    """The first error, or why something was skipped."""
    texts = [
        node.error.strip().splitlines()[0] if node.error.strip() else node.note for node in nodes if node.error or node.note
    ]
    return texts[0] if texts else ""
