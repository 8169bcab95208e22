"""What the tests of whole searches share: a stage that trains without tensors, workflows in short, what a run did."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator import api
from orchestrator.store.ledger import Ledger
from orchestrator.sweeps.records import TrialLog
from orchestrator.workflow.settled import read_result
from orchestrator.workflow.sweep_result import SWEEP_STAGE, SweepResult, TrialRecord
from stages.contract import StageContext, StageResult, TrainingDiverged

NUM_EPOCHS = 6


def train(context: StageContext) -> StageResult:
    """In place of `probe.sleep`: six epochs, each saved. `value` is what it comes to; texts make it fail in some way."""
    value = context.settings.value
    match value:
        case "ValueError":
            raise ValueError("these settings do not go together")
        case "RuntimeError":
            raise RuntimeError("the weather")
        case "diverges":
            raise TrainingDiverged("the loss is no number")
        case "memory":
            raise MemoryError("too large")
        case "NaN":
            return StageResult(metrics={"value": math.nan})
        case "missing":
            return StageResult(metrics={})
    latest = context.checkpoints.latest()
    first = latest[0] if latest else 0
    for epoch in range(1, NUM_EPOCHS + 1):
        if epoch > first:
            context.check_cancelled()
        _report(context, epoch)
        if epoch > first:
            context.checkpoints.save(epoch, lambda folder: (folder / "state").write_text(""))
    (context.output / "model.json").write_text(
        json.dumps([value, context.seed, *(made.key for made in context.many("inputs"))])
    )
    return StageResult(metrics={"value": value}, measurements={"num_epochs_resumed": first})


def _report(context: StageContext, epoch: int) -> None:
    value = context.settings.value * (1 - 0.5**epoch)
    context.report(step=epoch, total=NUM_EPOCHS, metrics={"value": value, "loss": -value}, epoch=epoch)


def workflow(
    *, settings: Mapping[str, Any], nodes: Mapping[str, str] | None = None, after: str = "", name: str = "search"
) -> str:
    """A workflow of an outer node and one sweep: `tune` trains, `pack` follows it."""
    parts = nodes or {
        "tune": "{stage: probe.sleep, inputs: {inputs: base}}",
        "pack": "{stage: probe.echo, inputs: {inputs: tune}, params: {value: packed}}",
    }
    lines = ["version: 1", "name: searched", "nodes:", "  base: {stage: probe.echo, params: {value: base}}"]
    lines += sweep_lines(name, settings=settings, nodes=parts)
    lines += textwrap.indent(textwrap.dedent(after).strip(), "  ").splitlines()
    return "\n".join(lines) + "\n"


def sweep_lines(name: str, *, settings: Mapping[str, Any], nodes: Mapping[str, str]) -> list[str]:
    filled = {
        "objectives": {"tune.value": "maximize"},
        "space": {"tune.value": {"uniform": [0.0, 1.0]}},
        "trials": 6,
        "max_concurrent": 1,
        **settings,
    }
    parts = [f"      {part}: {text}" for part, text in nodes.items()]
    return [f"  {name}:", f"    sweep: {json.dumps(filled)}", "    nodes:", *parts]


TPE = {"kind": "tpe", "startup_trials": 2}
ASHA = {"kind": "asha", "metric": "tune.value", "grace": 2, "reduction_factor": 2}
BEST = "final: {stage: probe.echo, inputs: {inputs: search.best.tune}, params: {value: final}}"


@dataclass
class Story:
    """What one run did, from its ledger, and how its sweep ended."""

    ended: api.RunResult
    workspace: api.Workspace
    plan: api.Plan

    def __post_init__(self) -> None:
        self.events, _ = self.workspace.ledger.events(self.ended.run)

    @property
    def state(self) -> str:
        return self.ended.state.value

    @property
    def made(self) -> list[str]:
        """Labels of the nodes that an attempt in this run made."""
        return [event["node"] for event in self.of("node_done") if event["ending"] == "done"]

    @property
    def attempts(self) -> list[str]:
        """Labels of the nodes that were begun in this run, once for each attempt."""
        return [event["node"] for event in self.of("node_started")]

    @property
    def error(self) -> str:
        return str(self.of("run_finished")[0]["error"])

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == kind]

    def trials(self, kind: str = "trial_ended", *, known: bool = False) -> list[int]:
        """Numbers of the trials that began or ended in this run; `known`: of those that earlier ones had ended."""
        return [event["number"] for event in self.of(kind) if event.get("known", False) is known]

    def result(self, name: str = "search") -> SweepResult:
        keys = [event["key"] for event in self.of("sweep_settled") if event["sweep"] == name]
        keys = keys or [sweep.key for label, sweep in self.plan.sweeps.items() if label == name]
        record = self.workspace.artifacts.find(SWEEP_STAGE, keys[0])
        assert record is not None
        result = read_result(record, self.workspace.artifacts)
        assert result is not None
        return result


def told(result: SweepResult) -> dict[str, Any]:
    """All that a result says, except for seconds and from where a training went on."""
    trials = [replace(trial, seconds={}, metrics=_without_resumed(trial.metrics)) for trial in result.trials]
    repeats = {number: [_without_resumed(figures) for figures in found] for number, found in result.repeats.items()}
    return replace(result, trials=trials, repeats=repeats, spent_s=0.0, avoided_s=0.0).to_data()


def _without_resumed(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not name.endswith("num_epochs_resumed")}


def logged(workspace: api.Workspace) -> list[TrialRecord]:
    """The trial log, all families."""
    return [record for family in workspace.store.list("sweeps") for record in TrialLog(workspace.store, family).read_all()]


def ask_to_stop_after(monkeypatch: Any, what: str, count: int) -> None:
    """Make the run's mark of cancellation appear when the `count`-th event of a kind is written."""
    seen = []
    real = Ledger.write

    def write(self: Ledger, run: str, events: Any) -> None:
        listed = list(events)
        real(self, run, listed)
        seen.extend(event for event in listed if event["type"] == what)
        if len(seen) >= count:
            self.ask_to_cancel(run)

    monkeypatch.setattr(Ledger, "write", write)
