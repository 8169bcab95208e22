"""The report of one run as data: what every form of it is made from. Reads the store only; nothing needs to be running."""

from __future__ import annotations

from typing import Any

from orchestrator.report.page.attempts import lanes, run_attempts
from orchestrator.report.page.cost import cost_document
from orchestrator.report.page.failures import failures_document
from orchestrator.report.page.graph import graph_document
from orchestrator.report.page.methods import methods_document
from orchestrator.report.page.origins import environments, lineage, lineage_document, reproduce_document
from orchestrator.report.page.plots import results_plot, sweep_plot
from orchestrator.report.page.sources import Sources, plain
from orchestrator.report.page.verdict import verdict_document
from orchestrator.report.reports_reached import reports_reached
from orchestrator.report.result_table import result_documents, result_lines
from orchestrator.report.run_results import results_of
from orchestrator.report.run_status import FINAL_STATES, NodeStatus, RunStatus, again_command
from orchestrator.report.status_table import counts_text, headline, node_word, run_word
from orchestrator.report.sweep_table import cost_text, sweep_document
from orchestrator.report.sweep_table import headline as sweep_headline
from orchestrator.report.text import Style

REPORT_VERSION = 1
"""Of the document's form: what is added leaves it, what changes its meaning or goes away raises it."""


def report_document(sources: Sources) -> dict[str, Any]:
    """All that a report says, as JSON that every reader takes."""
    status = sources.status
    attempts = run_attempts(sources.events, now=sources.now, is_live=sources.is_live)
    results = results_of(status, sources.artifacts, sources.sweeps)
    cost = cost_document(sources, attempts)
    verdict = verdict_document(sources)
    behind = [file["key"] for file in verdict["files"]]
    behind += [key for best in verdict["sweeps"] if best["best"] for key in best["best"]["keys"].values()]
    behind += [result.record.key for result in results]
    records = lineage(sources.record_of_key, behind)
    sweeps = []
    for found in sources.sweeps:
        reports = reports_reached(found, status, sources.ledger)
        sweeps.append({
            **sweep_document(found, reports=reports),
            "space": found.space,
            "headline": sweep_headline(found, style=Style()),
            "cost": cost_text(found.sweep.spent_s, found.sweep.avoided_s) if found.is_settled else "",
            "file_keys": {trial.number: trial.keys.get(found.main_part(trial), "") for trial in found.trials},
            "plot": sweep_plot(found),
        })  # fmt: skip
    document: dict[str, Any] = plain(
        {
            "report_version": REPORT_VERSION,
            "as_of": sources.now,
            "run": _run_document(status, store=sources.store.url),
            "verdict": verdict,
            "results": {
                "rows": result_documents(results),
                "lines": result_lines(results, style=Style(), width=None) if results else [],
                "plot": results_plot(results),
            },
            "sweeps": sweeps,
            "graph": graph_document(sources, cost["nodes"]),
            "nodes": [_node_document(node, status) for node in status.nodes.values() if not node.is_of_trial],
            "timeline": [
                {
                    "worker": lane.name,
                    "busy_s": lane.busy_s,
                    "attempts": [
                        {"node": each.label, "attempt": each.number, "began_s": each.began_s, "ended_s": each.ended_s,
                         "state": each.state}
                        for each in lane.attempts
                    ],
                }
                for lane in lanes(attempts)
            ],
            "cost": cost,
            "methods": methods_document(sources),
            "lineage": lineage_document(records),
            "environments": environments(records),
            "failures": failures_document(sources, attempts),
            "reproduce": reproduce_document(sources, records),
        }
    )  # fmt: skip
    return document


def _run_document(status: RunStatus, *, store: str) -> dict[str, Any]:
    return {
        "id": status.id,
        "workflow": status.workflow,
        "file": status.file,
        "state": status.state,
        "word": run_word(status.state),
        "headline": headline(status, style=Style()),
        "counts": counts_text(status),
        "created": status.created,
        "started": status.started,
        "ended": status.ended,
        "seconds": status.seconds,
        "error": status.error,
        "executor": status.request.get("executor", ""),
        "overrides": list(status.request.get("overrides", ())),
        "store": store,
        "go_on": again_command(status) if status.state in FINAL_STATES and status.state != "done" else "",
    }


def _node_document(node: NodeStatus, status: RunStatus) -> dict[str, Any]:
    return {
        "label": node.label, "node": node.node, "stage": node.stage, "key": node.key, "state": node.state,
        "word": node_word(node, status), "attempt": node.attempt, "seconds": node.seconds, "size_bytes": node.size_bytes,
        "note": node.error.strip().splitlines()[0] if node.error.strip() else node.note,
    }  # fmt: skip
