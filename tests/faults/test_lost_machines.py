"""A machine is lost in the middle of a training; another one, with a disk of its own, goes on from what the store has."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers import BUCKET, environment, started

from orchestrator import api
from orchestrator.store.checkpoints import mirrored_checkpoints
from orchestrator.store.s3 import S3Store
from orchestrator.workflow.plan import PlanNode
from stages.contract import Checkpoints

pytestmark = [pytest.mark.xdist_group("s3-moto"), pytest.mark.timeout(600)]
START_LIMIT_S = 240.0
"""To import torch takes seconds, and minutes where ten other processes want the same core."""
SUBMIT = Path(__file__).with_name("submit_once.py")
TRAINING = """
version: 1
name: lost
nodes:
  train:
    stage: pretrain.classifier
    params: {model: cnn_micro, data: digits, epochs: 20, checkpoint_every_steps: 7}
"""
WAITING = """
version: 1
name: lost
nodes:
  train: {stage: probe.sleep, params: {seconds: 2}}
"""


class Machine:
    """A machine as far as the product can tell: an environment with a cache folder of its own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.cache = folder / name
        self.variables = {**os.environ, "ORCHESTRATOR_CACHE": str(self.cache), "OMP_NUM_THREADS": "1"}

    def submit(self, file: Path, place: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(SUBMIT), str(file), place, "inline"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.variables,
        )  # fmt: skip


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Callable[[str], Machine]]:
    with environment({**started("moto").variables, "ORCHESTRATOR_CACHE": str(tmp_path / "here")}):
        yield lambda name: Machine(tmp_path, name)


@pytest.fixture
def place() -> str:
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


def finish(machine: Machine, file: Path, place: str) -> None:
    process = machine.submit(file, place)
    words, _ = process.communicate(timeout=START_LIMIT_S)
    assert process.returncode == 0, words


def lose_in_training(machine: Machine, file: Path, place: str, tally) -> None:
    """Submit, and kill -9 as soon as a saved state is whole in the store."""
    process, store = machine.submit(file, place), S3Store(place)
    until_s = time.monotonic() + START_LIMIT_S
    while not any(store.read(f"checkpoints/{key}/states.json") for key in store.list("checkpoints")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until_s
        time.sleep(0.05)
    process.kill()
    process.communicate()
    tally.add("machine lost in a training")


def done_event(place: str) -> dict:
    workspace = api.open_workspace(place)
    run = workspace.ledger.resolve("@last")
    return next(event for event in workspace.ledger.events(run)[0] if event["type"] == "node_done")


def node_of(file: Path, place: str) -> PlanNode:
    return api.plan(file, workspace=api.open_workspace(place)).nodes["train"]


@pytest.mark.slow
def test_another_machine_goes_on_with_the_training_of_a_lost_one(tmp_path: Path, machines, place: str, tally) -> None:
    """Hours of training are not lost with the machine, and what comes out has the bits of an undisturbed run."""
    file = tmp_path / "w.yaml"
    file.write_text(TRAINING)
    lose_in_training(machines("a"), file, place, tally)
    assert not list(api.open_workspace(place).artifacts.all_records())
    finish(machines("b"), file, place)
    resumed = done_event(place)["resumed"]
    assert resumed["from"] == "store"
    assert resumed["step"] >= 7
    assert resumed["step"] % 7 == 0
    (record,) = api.open_workspace(place).artifacts.all_records()
    undisturbed = api.open_workspace(str(tmp_path / "store"))
    finish(machines("c"), file, str(tmp_path / "store"))
    assert [each.content_digest for each in undisturbed.artifacts.all_records()] == [record.content_digest]
    assert mirrored_checkpoints(S3Store(place)) == {}, "what is finished needs no saved states"


@pytest.mark.parametrize("damage", ["bytes", "gone", "index"])
def test_a_damaged_state_in_the_store_is_reported_and_not_used(
    tmp_path: Path, machines, place: str, tally, damage: str
) -> None:
    """A bucket that lost an object must cost time, and no run."""
    file = tmp_path / "w.yaml"
    file.write_text(WAITING)
    lose_in_training(machines("a"), file, place, tally)
    store, key = S3Store(place), node_of(file, place).key
    files = [found.name for found in store.client.list(f"checkpoints/{key}/", is_deep=True)]
    for name in files:
        if damage == "index" and name == "states.json":
            store.client.put(f"checkpoints/{key}/{name}", b'{"format": 1, "states": [{"step": "../x"}]}')
        if damage == "bytes" and name.endswith("state.json"):
            store.client.put(f"checkpoints/{key}/{name}", b"x" * 100)
        if damage == "gone" and name.endswith("state.json"):
            store.client.delete(f"checkpoints/{key}/{name}")
    tally.add(f"saved states damaged: {damage}")
    finish(machines("b"), file, place)
    resumed = done_event(place).get("resumed", {})
    assert "step" not in resumed
    assert bool(resumed.get("damaged_steps")) == (damage != "index")
    assert mirrored_checkpoints(store) == {}


def test_a_node_that_is_asked_to_stop_sends_its_last_state_first(tmp_path: Path, machines, place: str, tally) -> None:
    """SIGTERM from whoever takes the machine away: the next machine goes on at that very step, though copies
    are due every ten seconds only."""
    file = tmp_path / "w.yaml"
    file.write_text(WAITING.replace("seconds: 2", "seconds: 60"))
    machine = machines("a")
    process = machine.submit(file, place)
    node = node_of(file, place)
    until_s = time.monotonic() + START_LIMIT_S
    while not list(S3Store(place).list("checkpoints")):
        assert time.monotonic() < until_s
        time.sleep(0.1)
    process.terminate()
    tally.add("machine taken away with a word (SIGTERM)")
    words, _ = process.communicate(timeout=START_LIMIT_S)
    assert process.returncode == 143, words
    (here,) = (machine.cache / "work").glob(f"*/checkpoints/{node.key}")
    step = Checkpoints(here).latest()[0]
    sent = [found.name.partition("-")[0] for found in S3Store(place).client.list(f"checkpoints/{node.key}/")]
    assert f"{step:012d}" in sent
