"""A search over real stages: what is shared changes the cost and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import api
from orchestrator.workflow.settled import read_result
from orchestrator.workflow.sweep_result import SWEEP_STAGE, SweepResult

PATTERNS = ["2:4", "1:4", "1:8"]
RATES = [0.0003, 0.0006, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.008]


def search(folder: Path, patterns: list[str], rates: list[float]) -> tuple[SweepResult, api.RunResult]:
    folder.mkdir()
    file = folder / "search.yaml"
    file.write_text(f"""
version: 1
name: search
nodes:
  search:
    sweep:
      sampler: grid
      objectives: {{tune.top1_accuracy: maximize}}
      space: {{sparsify.n_m: {{choice: {patterns}}}, tune.learning_rate: {{choice: {rates}}}}}
    nodes:
      train: {{stage: pretrain.classifier, params: {{model: cnn_micro, data: digits, epochs: 2}}}}
      sparsify: {{stage: sparsify.magnitude, inputs: {{model: train}}, params: {{data: digits}}}}
      tune: {{stage: finetune.classifier, inputs: {{model: sparsify}}, params: {{data: digits, epochs: 1}}}}
""")
    workspace = api.open_workspace(str(folder / "store"))
    run = api.submit(api.plan(file, workspace=workspace), workspace=workspace, executor="inline")
    result = read_result(next(workspace.artifacts.all_records(SWEEP_STAGE)), workspace.artifacts)
    assert result is not None
    return result, run


@pytest.mark.slow
def test_24_trials_run_each_distinct_stage_once_and_find_what_single_trials_find(tmp_path: Path) -> None:
    """28 nodes in place of 72; alone in a store of its own, each trial ends with the same metrics to the bit."""
    result, run = search(tmp_path / "shared", PATTERNS, RATES)
    made = [node for node in run.status.nodes.values() if node.ending == "done" and node.attempt]
    assert len(result.trials) == 24
    assert len(made) == len({node.key for node in made}) == 1 + 3 + 24
    assert result.avoided_s > result.spent_s
    for number in (0, 11, result.best):
        trial = result.trials[number]
        n_m, rate = trial.values["sparsify.n_m"], trial.values["tune.learning_rate"]
        alone, _ = search(tmp_path / f"alone{number}", [n_m], [rate])
        measured = ("training_s", "training_images_per_s")
        shown = {name: value for name, value in trial.metrics.items() if not name.endswith(measured)}
        assert shown == {name: value for name, value in alone.trials[0].metrics.items() if not name.endswith(measured)}
