"""Searches on Ray: the same as inline, several trials at once, stopped early and paused, killed and gone on with."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shared_ray import SharedRay

from orchestrator import api
from orchestrator.engine import cluster
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text
from sweeps.search_kit import Story, logged, sweep_lines, told, workflow

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

SUBMIT = Path(__file__).parents[1] / "faults" / "submit_once.py"


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    module = cluster.start_local(num_cpus=3)
    yield module
    cluster.stop(module)


@pytest.fixture
def on_ray(ray: Any, folder: Path):
    def submit(text: str, *, store: str = "store") -> Story:
        workspace = api.open_workspace(str(folder / store))
        plan = api.plan_checked(check_workflow(load_text(text, file="w.yaml")), workspace=workspace)
        ended = api.submit(plan, workspace=workspace, executor=lambda run: SharedRay(workspace.store, run, ray))
        return Story(ended, workspace, plan)

    return submit


SLEEPS = {"tune": "{stage: probe.sleep, inputs: {inputs: base}, params: {seconds: 0.2}}"}


def real(kind: str) -> str:
    settings = {
        "trials": None, "sampler": "grid", "max_concurrent": 2, "objectives": {"tune.top1_accuracy": "maximize"},
        "scheduler": {"kind": kind, "metric": "tune.top1_accuracy", "grace": 1, "reduction_factor": 2, "min_trials": 2},
        "space": {"tune.learning_rate": {"choice": [0.01, 0.0001, 0.003, 0.00001]}},
    }  # fmt: skip
    nodes = {"tune": "{stage: finetune.classifier, inputs: {model: base}, params: {data: digits, epochs: 4}}"}
    lines = ["version: 1", "name: real", "nodes:"]
    lines += ["  base: {stage: pretrain.classifier, params: {model: cnn_micro, data: digits, epochs: 1}}"]
    lines += sweep_lines("search", settings=settings, nodes=nodes)
    return "\n".join([*lines, "  export: {stage: export.packed, inputs: {model: search.best.tune}}\n"])


CHAOS = pytest.mark.slow


@pytest.mark.parametrize("kind", ["asha", pytest.param("hyperband", marks=CHAOS), pytest.param("median", marks=CHAOS)])
def test_trials_that_train_are_stopped_early_or_paused(on_ray, kind: str) -> None:
    """Two at a time on their own processes; whoever is stopped, all are accounted for, with what they have cost."""
    story = on_ray(real(kind))
    assert story.state == "done", story.error
    trials = story.result().trials
    assert len(trials) == 4
    assert {trial.state for trial in trials} <= {"done", "stopped"}
    assert all(trial.seconds.get(trial.keys["tune"], 0) > 0 for trial in trials)
    for trial in trials:
        assert [step for step, _ in trial.history] == list(range(1, len(trial.history) + 1))
    assert story.made[-1] == "export"
    assert on_ray(real(kind)).attempts == []


@CHAOS
def test_on_ray_a_search_ends_as_inline(on_ray, search, monkeypatch) -> None:
    """One trial at a time, TPE."""
    text = workflow(settings={"sampler": {"kind": "tpe", "startup_trials": 2}, "trials": 5}, nodes=SLEEPS)
    story = on_ray(text)
    monkeypatch.undo()  # the real stage, as on Ray
    inline = search(text, store="inline")
    values = [(trial.values, trial.state, trial.keys) for trial in story.result().trials]
    assert values == [(trial.values, trial.state, trial.keys) for trial in inline.result().trials]
    assert story.result().best == inline.result().best


@pytest.mark.parametrize(("cpus", "at_once"), [(1, 3), pytest.param(2, 1, marks=CHAOS), pytest.param(0.5, 6, marks=CHAOS)])
def test_as_many_trials_as_there_is_room_for(on_ray, cpus: float, at_once: int) -> None:
    """No deadlock with a slot less than trials; derived from the largest node."""
    nodes = {
        "first": f"{{stage: probe.echo, inputs: {{inputs: base}}, resources: {{cpus: {cpus}}}}}",
        "tune": f"{{stage: probe.sleep, inputs: {{inputs: first}}, params: {{seconds: 0.2}}, resources: {{cpus: {cpus}}}}}",
    }
    story = on_ray(workflow(settings={"sampler": "random", "trials": 7, "max_concurrent": None}, nodes=nodes))
    assert story.state == "done", story.error
    running, most = 0, 0
    for event in story.events:
        running += (event["type"] == "trial_started") - (event["type"] == "trial_ended")
        most = max(most, running)
    assert most == at_once
    assert len(story.result().trials) == 7


@CHAOS
def test_a_trial_that_runs_out_of_memory_or_dies_is_a_failed_trial(on_ray) -> None:
    """The process is gone, the search is not."""
    nodes = {"x": "{stage: probe.fail, params: {value: 1}, retry: {attempts: 2, backoff: 10ms}}"}
    settings = {
        "sampler": "grid", "trials": None, "objectives": {"x.value": "maximize"},
        "space": {"x.mode": {"choice": ["kill", "exit", "error"]}, "x.failures": {"choice": [1]}},
    }  # fmt: skip
    story = on_ray(workflow(settings=settings, nodes=nodes))
    assert story.state == "done", story.error
    assert [trial.state for trial in story.result().trials] == ["done", "done", "failed"]
    always = on_ray(workflow(settings={**settings, "space": {"x.mode": {"choice": ["kill"]}}, "max_failures": 0}, nodes=nodes))
    assert always.state == "failed"
    assert "1 of 1 trials failed" in always.error


@pytest.mark.parametrize("sign", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=CHAOS)])
def test_a_driver_that_is_killed_or_interrupted_in_the_middle_goes_on(folder: Path, sign: signal.Signals) -> None:
    """No trial that had ended is tried again; those that ran go on from what they had saved."""
    nodes = {"tune": "{stage: probe.sleep, inputs: {inputs: base}, params: {seconds: 2.5}}"}
    text = workflow(settings={"sampler": "random", "trials": 4, "max_concurrent": 2}, nodes=nodes)
    file, store = folder / "w.yaml", folder / "store"
    file.write_text(text)
    driver = subprocess.Popen([sys.executable, str(SUBMIT), str(file), str(store), "ray"], stdout=subprocess.DEVNULL)
    until_s = time.monotonic() + 90
    workspace = api.open_workspace(str(store))
    while sum(record.state == "done" for record in logged(workspace)) < 1 or not list(store.glob("work/checkpoints/*/0*")):
        assert time.monotonic() < until_s, "it takes too long"
        time.sleep(0.05)
    driver.send_signal(sign)
    driver.wait(60)
    cluster.sweep_sessions()
    finished = {record.label for record in workspace.artifacts.all_records()}
    ended = {record.number for record in logged(workspace) if record.state == "done"}
    assert len(ended) < 4
    plan = api.plan_checked(check_workflow(load_text(text, file="w.yaml")), workspace=workspace)
    story = Story(api.submit(plan, workspace=workspace, executor="inline"), workspace, plan)
    assert story.state == "done"
    assert not set(story.made) & finished
    assert not set(story.trials("trial_started")) & ended
    assert len(told(story.result())["trials"]) == 4
    assert max(trial.metrics.get("tune.num_steps_resumed", 0) for trial in story.result().trials) > 0
