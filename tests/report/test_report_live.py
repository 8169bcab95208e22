"""The live block: rungs and front of a search, nodes with bar, metric and time left, and no line wider than the terminal."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest

from orchestrator import api
from orchestrator.report import live
from orchestrator.report.live_sweeps import Rungs, front_text, rung_levels
from orchestrator.report.progress import ProgressReader
from orchestrator.report.run_sweeps import RunSweep, RunTrial
from orchestrator.workflow.sweep_spec import Sweep

SEARCH = """\
version: 1
name: rungs
nodes:
  search:
    sweep:
      sampler: grid
      scheduler: {kind: asha, metric: train.loss, mode: minimize, grace: 1, reduction_factor: 2}
      objectives: {train.value: maximize, score.value: minimize}
      space: {train.value: {choice: [1, 2, 3]}}
    nodes:
      train: {stage: probe.sleep, params: {seconds: 0.1}}
      score: {stage: probe.echo, inputs: {inputs: [train]}}
"""


def sweep_of(**changes: Any) -> Sweep:
    scheduler = {"kind": "asha", "grace": 2, "reduction_factor": 3, **changes}
    return Sweep.model_validate({"space": {}, "objectives": {"a.b": "minimize"}, "scheduler": scheduler})


@pytest.mark.parametrize(
    ("kind", "longest", "levels"), [("asha", 20, [2, 6, 18]), ("hyperband", 5, [2]), ("median", 9, [2, 9]), ("asha", 1, [2])]
)
def test_rungs_are_the_grace_and_its_multiples(kind: str, longest: int, levels: list[int]) -> None:
    assert rung_levels(sweep_of(kind=kind), longest) == levels


def test_the_front_so_far_leaves_out_what_is_dominated_running_or_beyond_a_constraint() -> None:
    def trial(number: int, a: float, b: float, **more: Any) -> RunTrial:
        return RunTrial(number, f"s/t{number:04}", {}, **{"state": "done", "metrics": {"x.a": a, "x.b": b}, **more})

    trials = [
        trial(0, 1, 1),
        trial(1, 2, 2),
        trial(2, 1, 2),
        trial(3, 9, 0, violated=("off",)),
        trial(4, 9, 9, state="running"),
    ]
    sweep = RunSweep("s", objectives={"x.a": "maximize", "x.b": "minimize"}, trials={each.number: each for each in trials})
    assert front_text(sweep) == "front so far  t0001 a 2, b 2; t0000 a 1, b 1"
    assert front_text(RunSweep("s", objectives={"x.a": "maximize"}, trials=sweep.trials)) == ""


@pytest.fixture
def searching(run_text: Any, workspace: api.Workspace) -> api.RunStatus:
    """A run as it stood while its search went on, with three epochs of one trial and one of another."""
    result = run_text(SEARCH)
    status = result.status
    for node in status.nodes.values():
        if node.label.endswith("/train"):
            node.state, node.attempt = "running", 1
    for trial, epochs in ((0, 3), (1, 1)):
        node = status.nodes[f"search/t{trial:04}/train"]
        for epoch in range(1, epochs + 1):
            workspace.ledger.write_progress(
                status.id, node.folder, attempt=1, step=epoch * 10, total=40, metrics={"loss": 1 / epoch}, epoch=epoch
            )
    status.sweeps["search"].state = "searching"
    status.sweeps["search"].best = None
    for trial in status.sweeps["search"].trials.values():
        trial.state = "running"
    done = status.sweeps["search"].trials[2]
    done.state, done.metrics = "done", {"train.value": 3, "score.value": 3}
    return status


def test_trials_are_counted_by_the_rungs_that_they_have_come_to(searching: api.RunStatus, workspace: api.Workspace) -> None:
    rungs = Rungs(workspace.ledger, searching)
    assert rungs.text(searching.sweeps["search"]) == "", "nothing is known before the first look"
    rungs.read(searching)
    assert rungs.text(searching.sweeps["search"]) == "trials by reports  1: 2, 2: 1; 0 stopped"


@pytest.mark.parametrize("width", [30, 60, 80, 120])
def test_the_block_fits_its_terminal_and_shows_searches_and_running_nodes(
    searching: api.RunStatus, workspace: api.Workspace, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "xterm")  # on a dumb terminal nothing is drawn
    file = io.StringIO()
    block = live.LiveBlock(file, ProgressReader(workspace.ledger, searching.id), searching, is_coloured=False)
    block._live.refresh()
    block.close()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n")
    lines = [line for line in text.splitlines() if line.strip()]
    assert max(map(len, lines)) <= width
    assert any(line.startswith("SEARCH  search  ") for line in lines)
    assert any("RUN" in line and "30/40" in line for line in lines) or width < 60
    if width >= 60:
        assert any("trials by reports  1: 2, 2: 1" in line for line in lines)
        assert any("front so far  t0002" in line for line in lines)
    if width >= 120:
        assert any("loss 0.3333" in line and " left" in line for line in lines)
