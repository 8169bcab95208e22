"""Data-parallel training on a real Ray: through Ray Train, in a trial of a search, with a worker that dies.

One Ray serves the whole module; so what a run leaves behind would be in the way of the next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from shared_ray import SharedRay

from orchestrator import api
from orchestrator.engine import cluster
from orchestrator.engine.run_options import RunOptions

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]

TRAIN = (
    "{stage: pretrain.classifier, params: {model: cnn_micro, data: digits, epochs: 20, checkpoint_every_steps: 7}, "
    "resources: {workers: 2}, retry: {backoff: 10ms}}"
)
SEARCH = f"""
version: 1
name: w
nodes:
  search:
    sweep:
      trials: 1
      sampler: random
      objectives: {{score.top1_accuracy: maximize}}
      space: {{train.learning_rate: {{uniform: [0.002, 0.004]}}}}
    nodes:
      train: {TRAIN}
      score: {{stage: evaluate.classifier, params: {{data: digits}}, inputs: {{model: train}}}}
"""


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    module = cluster.start_local(num_cpus=2)
    yield module
    cluster.stop(module)


@pytest.fixture
def run_on_ray(ray: Any, workspace: api.Workspace, plan_text: Any) -> Callable[..., api.RunResult]:
    def run(text: str, **options: Any) -> api.RunResult:
        return api.submit(
            plan_text(text), workspace=workspace, executor=lambda run: SharedRay(workspace.store, run, ray), **options
        )

    return run


class OnceSaved(api.Watcher):
    """Does something once, as soon as the node that trains has saved a state."""

    def __init__(self, store: Path, action: Callable[[api.RunStatus], None]) -> None:
        self.store, self.action = store, action
        self.thread: threading.Thread | None = None

    def happened(self, events: Any, status: Any) -> None:
        if self.thread is None and any(event["type"] == "node_started" for event in events):
            self.thread = threading.Thread(target=self._act, args=(status,))
            self.thread.start()

    def _act(self, status: api.RunStatus) -> None:
        until_s = time.monotonic() + 120
        while time.monotonic() < until_s and not list(self.store.glob("work/checkpoints/*/0*")):
            time.sleep(0.02)
        self.action(status)


def train_workers() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "ray::RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def kill_last_worker(_status: api.RunStatus) -> None:
    max(train_workers(), key=lambda process: process.pid).kill()


def test_two_workers_train_in_a_trial_and_one_that_dies_costs_one_attempt(run_on_ray: Any, workspace: api.Workspace) -> None:
    """Whoever trains for days on many machines loses one of them; what was saved must count, and the search must go on."""
    store = Path(workspace.store.url.removeprefix("file://"))
    result = run_on_ray(SEARCH, watcher=OnceSaved(store, kill_last_worker))
    nodes = result.status.nodes
    train = next(node for label, node in nodes.items() if label.endswith("/train"))
    assert {node.state for node in nodes.values()} == {"done"}, train.error
    assert train.attempt == 2
    failed = next(event for event in workspace.ledger.events(result.run)[0] if event["type"] == "attempt_failed")
    assert failed["class"] == "lost_worker"
    ended = next(e for e in workspace.ledger.events(result.run)[0] if e["type"] == "node_done" and e["node"] == train.label)
    assert ended["resumed"]["step"] >= 7
    record = workspace.artifacts.find(train.stage, train.key)
    assert record is not None
    assert record.identity["workers"] == 2
    assert record.metrics["top1_accuracy"] > 0.9
    for worker in (0, 1):
        log = workspace.ledger.read_log(result.run, train.folder, 2, worker=worker).decode()
        assert "goes on from step" in log
        assert "epoch 20/20" in log
    progress, _ = workspace.ledger.progress(result.run, train.folder)
    assert {line["epoch"] for line in progress if line.get("epoch")} == set(range(1, 21))
    assert not train_workers(), "nothing is left running"


@pytest.mark.slow
def test_a_cancelled_run_stops_all_workers_and_goes_on_from_their_state(run_on_ray: Any, workspace: api.Workspace) -> None:
    """Ctrl-C must not leave one worker waiting for another, nor lose what was trained."""
    text = f"version: 1\nname: w\nnodes:\n  train: {TRAIN}\n"
    store = Path(workspace.store.url.removeprefix("file://"))
    watcher = OnceSaved(store, lambda status: workspace.ledger.ask_to_cancel(status.id))
    result = run_on_ray(text, watcher=watcher)
    assert result.status.nodes["train"].state == "cancelled"
    assert not train_workers()
    result = run_on_ray(text)
    ended = next(event for event in workspace.ledger.events(result.run)[0] if event["type"] == "node_done")
    assert ended["resumed"]["step"] > 0


@pytest.mark.slow
def test_workers_that_are_killed_give_back_what_they_held(run_on_ray: Any) -> None:
    """Even while they are being started: what Ray Train has reserved would else be held until the run ends, and block it."""
    long = TRAIN.replace("epochs: 20", "epochs: 2000")
    nodes = f"  long: {long[:-1]}, timeout: 1s}}\n  short: {{stage: probe.echo, resources: {{cpus: 2}}}}\n"
    result = run_on_ray(f"version: 1\nname: w\nnodes:\n{nodes}", options=RunOptions(keep_going=True, grace_s=0.0))
    assert {label: node.state for label, node in result.status.nodes.items()} == {"long": "failed", "short": "done"}
