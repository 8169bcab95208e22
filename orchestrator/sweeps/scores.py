"""A trial as numbers, the same for searchers and the choice of the best: its objectives, how far it is off the constraints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.sweeps.constraints import Judgement, judge_all, number
from orchestrator.workflow.sweep_result import TrialRecord
from orchestrator.workflow.sweep_spec import Sweep


class Scores:
    """Objectives and constraints of one sweep. `baselines`: "node.metric" of the nodes outside that constraints refer to."""

    def __init__(self, sweep: Sweep, baselines: Mapping[str, Any]) -> None:
        self.directions: Mapping[str, str] = dict(sweep.objectives)
        self._constraints = sweep.constraints
        self._baselines = dict(baselines)

    def objectives(self, metrics: Mapping[str, Any]) -> tuple[float, ...] | None:
        """The objectives in the file's order; None where one is missing or no finite number."""
        found = [number(metrics.get(name)) for name in self.directions]
        values = tuple(value for value in found if value is not None)
        return values if len(values) == len(found) else None

    def judgements(self, metrics: Mapping[str, Any], *, static_only: bool = False) -> list[Judgement]:
        """Each constraint in the file's order; `static_only`: those decided before anything runs."""
        return judge_all(
            self._constraints, metrics, baselines=self._baselines, directions=self.directions, static_only=static_only
        )

    def violated(self, metrics: Mapping[str, Any]) -> tuple[str, ...]:
        """The constraints that are not met, in words: what a trial's record keeps."""
        return tuple(judged.text for judged in self.judgements(metrics) if not judged.is_met)

    def struck_out(self, forecast: Mapping[str, Any]) -> tuple[str, ...]:
        """The static constraints that are known not to be met; of what no forecast knows, only running the trial can tell."""
        judgements = self.judgements(forecast, static_only=True)
        return tuple(judged.text for judged in judgements if judged.metric in forecast and not judged.is_met)

    def violations(self, record: TrialRecord) -> dict[str, float]:
        """By the constraint's place in the file: 0 where met, else how far off. Empty for a trial that was not measured."""
        if record.state not in {"done", "infeasible"}:
            return {}
        if record.state == "infeasible":
            judgements = self.judgements(record.metrics, static_only=True)
            return {str(index): judged.violation * (judged.metric in record.metrics) for index, judged in enumerate(judgements)}
        return {str(index): judged.violation for index, judged in enumerate(self.judgements(record.metrics))}
