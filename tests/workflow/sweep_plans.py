"""Plans with a sweep that tests share, what a search of it may have found, and keeping that."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from orchestrator import api
from orchestrator.store.artifacts import Record, content_digest
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text
from orchestrator.workflow.plan import Plan, PlanSweep
from orchestrator.workflow.planning import make_plan
from orchestrator.workflow.sweep_result import SWEEP_STAGE, SweepResult, TrialRecord

TEXT = """
version: 1
name: demo
nodes:
  base: {stage: probe.echo, params: {value: 1}}
  search:
    sweep:
      trials: 4
      sampler: random
      objectives: {score.value: maximize, tune.num_inputs: minimize}
      constraints: [{metric: score.value, max_drop: 5, versus: base.value}]
      space:
        tune.seconds: {uniform: [0.0, 0.5]}
        tune.value: {choice: [a, b]}
        score.value: {int: [1, 9], when: {tune.value: [b]}}
    nodes:
      tune: {stage: probe.sleep, inputs: {inputs: base}}
      score: {stage: probe.echo, inputs: {inputs: tune}, params: {value: 0}}
  after: {stage: probe.echo, inputs: {inputs: search.best.tune}}
  shown: {stage: probe.bytes, foreach: {input: search.front.tune}}
  shown_on: {stage: probe.bytes, params: {size: 3}, inputs: {input: shown}}
  all: {stage: probe.echo, inputs: {inputs: [shown_on, after, base]}}
  aside: {stage: probe.echo, params: {value: 7}}
"""
VALUES = [
    {"tune.seconds": 0.1, "tune.value": "a"},
    {"tune.seconds": 0.2, "tune.value": "b", "score.value": 5},
    {"tune.seconds": 0.1, "tune.value": "b", "score.value": 9},
]


def result(*, best: int | None = 2, front: tuple[int, ...] = (2, 1)) -> SweepResult:
    trials = [TrialRecord(number=number, values=values, state="done") for number, values in enumerate(VALUES)]
    return SweepResult(trials=trials, front=front, best=best, verdict="none is within 5 of base", rule="best", objectives={})


NONE = result(best=None, front=())


def checked(text: str = TEXT, *, overrides: tuple[str, ...] = ()):
    return check_workflow(load_text(textwrap.dedent(text), file="w.yaml", overrides=overrides))


def plan(workspace: api.Workspace, text: str = TEXT, *, overrides: tuple[str, ...] = (), selection=None, **options) -> Plan:
    return make_plan(checked(text, overrides=overrides), workspace.artifacts, selection=selection, **options)


def sweep_of(workspace: api.Workspace, text: str = TEXT, **options) -> PlanSweep:
    return plan(workspace, text, **options).sweeps["search"]


def settle(workspace: api.Workspace, sweep: PlanSweep, found: SweepResult, tmp_path: Path) -> Record:
    """Keep a result in the store as a finished search does."""
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps(found.to_data()))
    files = workspace.artifacts.take_files(folder)
    record = Record(
        key=sweep.key, stage=SWEEP_STAGE, kind="sweep", identity=sweep.identity, files=files, metrics={}, measurements={},
        content_digest=content_digest(files, {}), input_digests={}, source_digest="", label="search", run="r", attempt=1,
        finished="2026-01-01T00:00:00Z", seconds=1.0,
    )  # fmt: skip
    return workspace.artifacts.publish(record)


def run(workspace: api.Workspace, text: str, *, overrides: tuple[str, ...] = ()) -> None:
    api.submit(plan(workspace, text, overrides=overrides), workspace=workspace, executor="inline")


GRID = """
version: 1
name: grid
nodes:
  base: {stage: probe.echo, params: {value: 1}}
  search:
    sweep:
      sampler: grid
      objectives: {c.value: maximize}
      space:
        a.value: {choice: [1, 2]}
        b.value: {int: [1, 3]}
        c.value: {uniform: [0.1, 0.4], step: 0.1, when: {a.value: [2]}}
    nodes:
      a: {stage: probe.echo, inputs: {inputs: base}}
      b: {stage: probe.echo, inputs: {inputs: a}}
      c: {stage: probe.echo, inputs: {inputs: b}}
"""
