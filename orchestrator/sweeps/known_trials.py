"""What a search takes over from earlier ones of its family: killed, smaller, with another space, objective or constraint.

A record counts where planning its values in the present space gives the very keys that it holds. What it says is held against
the present sweep once more; where it does not answer what is asked now, the same trial goes on instead (from what it saved).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.engine.progress import epochs_of
from orchestrator.engine.retries import HOPELESS
from orchestrator.errors import PlanError
from orchestrator.store.artifacts import Artifacts
from orchestrator.store.ledger import Ledger
from orchestrator.sweeps.scores import Scores
from orchestrator.sweeps.searcher import RUNNING, Searcher
from orchestrator.sweeps.space import values_text
from orchestrator.sweeps.stopping import is_stopping_metric_maximized, stopping_metric
from orchestrator.sweeps.trial_plans import Nodes, TrialPlans, keys_of
from orchestrator.workflow.references import split_metric
from orchestrator.workflow.sweep_result import TrialRecord
from orchestrator.workflow.sweep_spec import Sweep


@dataclass(frozen=True, kw_only=True)
class KnownTrials:
    """Reads records of earlier searches as this one sees them."""

    settings: Sweep
    scores: Scores
    plans: TrialPlans
    artifacts: Artifacts
    ledger: Ledger

    def tell(self, records: Iterable[TrialRecord], searcher: Searcher) -> list[TrialRecord]:
        """Tell the searcher what counts; returns that by number, those that are to go on with state `running`."""
        if self.settings.sampler.kind == "pbt":
            return [taken for record in records for taken in self._tell_member(record, searcher)]
        return searcher.warm_start(_each_once(found for record in records if (found := self._counted(record)) is not None))

    def history(self, nodes: Nodes) -> tuple[tuple[int, float], ...]:
        """What the trial's training reported, epoch by epoch, to the run that made its artifact."""
        part, metric = split_metric(stopping_metric(self.settings))
        node = next(node for label, node in nodes.items() if label.endswith(f"/{part}"))
        record = self.artifacts.find(node.spec.name, node.key)
        if record is None:
            return ()
        reports = epochs_of(self.ledger, run=record.run, node=node.node, key=node.key)
        found = ((report.epoch, report.metrics[metric]) for report in reports if metric in report.metrics)
        return tuple((epoch, float("nan") if value is None else float(value)) for epoch, value in found)

    def _tell_member(self, record: TrialRecord, searcher: Searcher) -> Iterator[TrialRecord]:
        """One after the other: what a trial is follows from the one it goes on from, and that has to be one that counts."""
        found = self._counted(record)
        for taken in searcher.warm_start([found]) if found is not None else ():
            self.plans.remember(
                taken.number, self.plans.plan(taken.number, taken.values, parent=taken.parent), parent=taken.parent
            )
            yield taken

    def _counted(self, record: TrialRecord) -> TrialRecord | None:
        """The record as it counts here; None where it is of another search."""
        if self.settings.sampler.kind != "pbt":
            record = replace(record, parent=None)
        try:
            nodes = self.plans.plan(record.number, record.values, parent=record.parent)
        except KeyError:
            return None
        except PlanError:  # refused then as now
            return None if record.keys else record
        if keys_of(nodes) != dict(record.keys):
            return None
        return self._as_asked_now(record, nodes)

    def _as_asked_now(self, record: TrialRecord, nodes: Nodes) -> TrialRecord:
        stopping = stopping_rule(self.settings)
        again = replace(record, state=RUNNING, metrics={}, history=(), violated=(), error="")
        match record.state:
            case "failed":
                return record if is_hopeless(record) else again
            case "stopped":
                return record if record.stopping == stopping else again
            case "infeasible":
                violated = self.scores.struck_out(record.metrics)
                return replace(record, violated=violated) if violated else again
            case "done" if self.scores.objectives(record.metrics) is None:
                return again
            case "done" if stopping and record.stopping.get("metric") != stopping["metric"]:
                return replace(record, history=self.history(nodes), stopping=stopping)
            case "done" if not stopping:
                return replace(record, history=(), stopping={})
        return record


def _each_once(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Searches that knew nothing of each other may have tried the same under two numbers: the one that has ended counts."""
    found: dict[str, TrialRecord] = {}
    for record in records:
        what = values_text({"keys": dict(record.keys), "values": dict(record.values)})
        if what not in found or (found[what].state == RUNNING and record.state != RUNNING):
            found[what] = record
    return list(found.values())


def stopping_rule(sweep: Sweep) -> dict[str, Any]:
    """How trials are stopped early, in full; empty where none is."""
    scheduler = sweep.scheduler
    if scheduler.kind == "none":
        return {}
    own = (
        {"min_trials": scheduler.min_trials} if scheduler.kind == "median" else {"reduction_factor": scheduler.reduction_factor}
    )
    mode = "maximize" if is_stopping_metric_maximized(sweep) else "minimize"
    return {"kind": scheduler.kind, "metric": stopping_metric(sweep), "mode": mode, "grace": scheduler.grace, **own}


def is_hopeless(record: TrialRecord) -> bool:
    """Whether the same trial would only fail in the same way again."""
    return not record.keys or record.error.startswith(HOPELESS)


def last_reported(record: TrialRecord) -> Mapping[str, float]:
    """The figure of the early-stopping metric that was reported last."""
    return {record.stopping["metric"]: record.history[-1][1]} if record.history and record.stopping else {}
