"""How far the trials of a sweep with early stopping came: the last report of each, from its record or from the ledger."""

from __future__ import annotations

from orchestrator.report.found_sweeps import FoundSweep
from orchestrator.report.run_status import RunStatus
from orchestrator.store.ledger import Ledger
from orchestrator.workflow.references import split_metric


def reports_reached(found: FoundSweep, status: RunStatus, ledger: Ledger) -> dict[int, int]:
    """Reports (epochs) by trial; empty for a sweep that stops nothing early."""
    kept = {trial.number: max(step for step, _ in trial.history) for trial in found.trials if trial.history}
    if found.settings is None or found.settings.scheduler.kind == "none":
        return kept
    part = split_metric(found.settings.scheduler.metric or next(iter(found.settings.objectives)))[0]
    reached: dict[int, int] = {}
    for trial in found.trials:
        node = status.nodes.get(f"{found.label(trial.number)}/{part}")
        if trial.number not in kept and node is not None:
            epochs = [line["epoch"] for line in ledger.progress(status.id, node.folder)[0] if "epoch" in line]
            reached |= {trial.number: max(epochs)} if epochs else {}
    return {**reached, **kept}
