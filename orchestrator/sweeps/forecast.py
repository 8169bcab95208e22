"""What is known of a trial before any of it runs, for constraints that are `check: static`. Knows no search and no sampler.

Forecasts are the stages' own (`StageSpec.forecast`); here each is asked for with those of its inputs, and kept by its node's
key: trials that differ late share what is before. Loads torch where a stage's forecast needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.errors import IntegrityError
from orchestrator.store.artifacts import Artifacts
from orchestrator.sweeps.constraints import number
from orchestrator.workflow.plan import PlanNode
from stages.catalog import load_forecast
from stages.contract import Forecast

UNKNOWN = Forecast()


class Forecaster:
    """Forecasts of the trials of one search; keeps what it has found."""

    def __init__(self, artifacts: Artifacts) -> None:
        self.artifacts = artifacts
        self._by_key: dict[str, Forecast] = {}

    def of_trial(self, nodes: Mapping[str, PlanNode], outer: Mapping[str, PlanNode]) -> dict[str, float]:
        """Metrics "node.metric" of a trial that are known now; one that cannot be known is absent.

        Args:
            nodes: the trial's, by label, in an order in which they can run.
            outer: the others that it refers to, by label, all finished.
        """
        known: dict[str, Forecast] = {}
        for label, node in nodes.items():
            inputs = {port: self._input(value, known, outer) for port, value in node.inputs.items() if isinstance(value, str)}
            known[label] = self._by_key.get(node.key) or self._keep(node.key, _forecast(node, inputs))
        return {
            f"{label.rpartition('/')[2]}.{name}": value
            for label, found in known.items()
            for name, value in found.metrics.items()
        }

    def _input(self, label: str, known: Mapping[str, Forecast], outer: Mapping[str, PlanNode]) -> Forecast:
        if label in known or label not in outer:
            return known.get(label, UNKNOWN)
        node = outer[label]
        return self._by_key.get(node.key) or self._keep(node.key, self._finished(node))

    def _keep(self, key: str, found: Forecast) -> Forecast:
        """Keep what is known. What is not is looked for again: it may be finished where a later trial refers to it."""
        if found is not UNKNOWN:
            self._by_key[key] = found
        return found

    def _finished(self, node: PlanNode) -> Forecast:
        """A finished artifact in the form of a forecast; one that is damaged is found out by the stage that reads it."""
        record = self.artifacts.find(node.spec.name, node.key)
        if record is None:
            return UNKNOWN
        metrics = {name: value for name, value in record.metrics.items() if number(value) is not None}
        if record.kind != "model":
            return Forecast(metrics=metrics)
        from stages.models.skeleton import read_skeleton

        try:
            return Forecast(metrics=metrics, model=read_skeleton(self.artifacts.open(record)))
        except (IntegrityError, ValueError):
            return UNKNOWN


def _forecast(node: PlanNode, inputs: Mapping[str, Forecast]) -> Forecast:
    """The stage's own forecast; nothing where it has none, or a required input is unknown, or the settings do not fit.

    Settings that do not fit are the stage's to refuse, in its own words and with its own record.
    """
    forecast = load_forecast(node.spec)
    ports = node.spec.inputs.items()
    if forecast is None or not all(port.optional or _is_known(inputs.get(name, UNKNOWN), port.kind) for name, port in ports):
        return UNKNOWN
    try:
        return forecast(node.settings, inputs)
    except (ValueError, RuntimeError):
        return UNKNOWN


def _is_known(found: Forecast, kind: str) -> bool:
    needed: Any = found.model if kind == "model" else found.metrics
    return bool(needed)
