"""A process stands still (SIGSTOP, a suspended machine) for longer than its lease while another one takes the work over. When
it goes on again it stops by itself, and what the other one has made stands.
"""

from __future__ import annotations

import os
import signal
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
from orchestrator.store.lease import TTL_VARIABLE, Leases

SUBMIT = Path(__file__).with_name("submit_once.py")
LEASE_S = 2.0
pytestmark = pytest.mark.timeout(600)
WORKFLOW = """
version: 1
name: frozen
nodes:
  s: {stage: probe.sleep, params: {seconds: 4, value: 1}, retry: {attempts: 1, backoff: 10ms}}
  end: {stage: probe.echo, params: {value: 2}, inputs: {inputs: s}}
"""


class Drivers:
    """Submitting processes, each with a cache folder of its own, as on machines of their own."""

    def __init__(self, folder: Path, place: str) -> None:
        self.folder = folder
        self.place = place
        self.file = folder / "w.yaml"
        self.file.write_text(WORKFLOW)
        self.started: list[subprocess.Popen[str]] = []

    def start(self, executor: str) -> subprocess.Popen[str]:
        cache = self.folder / f"cache-{len(self.started)}"
        process = subprocess.Popen(
            [sys.executable, str(SUBMIT), str(self.file), self.place, executor],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "ORCHESTRATOR_CACHE": str(cache), TTL_VARIABLE: str(LEASE_S)},
        )  # fmt: skip
        self.started.append(process)
        return process


@pytest.fixture(params=["local", pytest.param("moto", marks=pytest.mark.xdist_group("s3-moto"))])
def drivers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Drivers]:
    if request.param == "local":
        made = Drivers(tmp_path, str(tmp_path / "store"))
        yield made
    else:
        with environment({**started("moto").variables, "ORCHESTRATOR_CACHE": str(tmp_path / "here")}):
            made = Drivers(tmp_path, f"s3://{BUCKET}/{uuid.uuid4().hex}")
            yield made
    for process in made.started:
        process.kill()


def wait_until(condition: Callable[[], bool], timeout_s: float = 200.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, "waited too long"
        time.sleep(0.05)


def freeze_while_another_takes_over(drivers: Drivers, executor: str, tally) -> None:
    workspace = api.open_workspace(drivers.place)
    key = api.plan(drivers.file, workspace=workspace).nodes["s"].key
    leases = Leases(workspace.store, run="test")
    frozen = drivers.start(executor)
    wait_until(lambda: leases.holder(key) is not None)
    holder = leases.holder(key)
    assert holder is not None
    time.sleep(1.5)  # into the stage, past its first saved state
    os.kill(holder.process_id, signal.SIGSTOP)
    tally.add("frozen for twice its lease")
    stopped_s = time.monotonic()
    try:
        successor = drivers.start("inline")
        words, _ = successor.communicate(timeout=200)
        assert successor.returncode == 0, words
        standing = {record.label: record for record in workspace.artifacts.all_records()}
        time.sleep(max(0.0, 2 * LEASE_S + 0.5 - (time.monotonic() - stopped_s)))
    finally:
        os.kill(holder.process_id, signal.SIGCONT)
    words, _ = frozen.communicate(timeout=200)
    assert frozen.returncode == 0, words
    assert {record.label: record for record in workspace.artifacts.all_records()} == standing
    assert list(workspace.store.list("quarantine")) == [], "nobody replaced a record of somebody else"
    events = workspace.ledger.events(holder.run)[0]
    (failure,) = [event for event in events if event["type"] == "attempt_failed"]
    assert (failure["class"], failure["error_type"]) == ("lease_lost", "LeaseLost")
    assert {event["node"]: event["ending"] for event in events if event["type"] == "node_done"}["s"] == "shared"
    assert standing["s"].run != holder.run
    assert mirrored_checkpoints(workspace.store) == {}
    assert [name for name in workspace.store.list("leases") if leases.holder(name) is not None] == []


def test_a_frozen_run_stops_by_itself_and_uses_what_its_successor_made(drivers: Drivers, tally) -> None:
    """A laptop that was closed for a minute must not overwrite what a colleague's machine has finished meanwhile."""
    freeze_while_another_takes_over(drivers, "inline", tally)


@pytest.mark.chaos
@pytest.mark.ray
def test_a_frozen_stage_host_stops_by_itself(drivers: Drivers, tally) -> None:
    """The same where only the process of the stage stood still, and its driver did not."""
    freeze_while_another_takes_over(drivers, "ray", tally)
