"""What came out of a run: the best trial of each sweep with its intervals, and the files to take, each with its command."""

from __future__ import annotations

from typing import Any

from orchestrator.report.best import best_document, best_lines, find_best
from orchestrator.report.page.sources import Sources
from orchestrator.report.run_status import NodeStatus
from orchestrator.report.text import Style
from stages.catalog import find_stage

_TAKEN = (("exported", "packed", "program", "semi_structured"), ("model",))
"""Kinds of artifacts that one takes away: exported files, or else models."""


def verdict_document(sources: Sources) -> dict[str, Any]:
    """The winners as `orchestrator best` tells them, and the files."""
    winners = []
    for found in sources.sweeps:
        best = find_best(found, sources.status, sources.artifacts)
        winners.append({**best_document(best, top=1), "lines": best_lines(best, top=1, style=Style(), width=None)})
    return {"sweeps": winners, "files": _files(sources)}


def _files(sources: Sources) -> list[dict[str, Any]]:
    """The exported files of the run's own nodes; where nothing was exported, the models that nothing else was made from."""
    plain = [node for node in sources.status.nodes.values() if not node.is_of_trial and node.state in ("hit", "done")]
    used = {
        key
        for node in plain
        if (record := sources.record_of_node(node)) is not None and _kind(node) in {kind for kinds in _TAKEN for kind in kinds}
        for value in record.identity.get("inputs", {}).values()
        for key in ([value] if isinstance(value, str) else value)
    }
    for kinds in _TAKEN:
        found = [node for node in plain if _kind(node) in kinds and (node.key not in used or kinds is _TAKEN[0])]
        if found:
            break
    else:
        found = plain[-1:]
    documents = []
    for node in {node.key: node for node in found}.values():
        record = sources.record_of_node(node)
        if record is not None:
            documents.append({
                "label": node.label, "kind": record.kind, "stage": node.stage, "key": node.key, "size_bytes": record.size_bytes,
                "command": f"orchestrator artifacts get {node.key[:8]} ./{node.node}",
            })  # fmt: skip
    return documents


def _kind(node: NodeStatus) -> str:
    spec = find_stage(node.stage)
    return spec.output if spec is not None else ""
