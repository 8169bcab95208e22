"""Runs on Ray whose processes are killed from outside: the submitting process, a stage host, Ray's own scheduler."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator import api
from orchestrator.engine import cluster
from orchestrator.store.lease import Leases

SUBMIT = Path(__file__).with_name("submit_once.py")
WORKFLOW = """
version: 1
name: killed
nodes:
  a: {stage: probe.echo, params: {value: 1}}
  b: {stage: probe.bytes, params: {size: 200000}, inputs: {input: a}}
  s: {stage: probe.sleep, params: {seconds: SECONDS}, inputs: {inputs: a}, retry: {attempts: 4, backoff: 10ms}}
  t: {stage: probe.sleep, params: {seconds: SECONDS, value: 2}, inputs: {inputs: b}, retry: {attempts: 4, backoff: 10ms}}
  end: {stage: probe.echo, params: {value: 3}, inputs: {inputs: [s, t]}}
"""


class NothingToKill(Exception):
    """There was no such process at that moment."""


class Driver:
    """A submitting process, what it printed, and every process that it has begun."""

    def __init__(self, folder: Path, *, seconds: float = 3.0, executor: str = "ray") -> None:
        self.store = folder / "store"
        file = folder / "w.yaml"
        file.write_text(WORKFLOW.replace("SECONDS", str(seconds)))
        self.process = subprocess.Popen(
            [sys.executable, str(SUBMIT), str(file), str(self.store), executor],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.lines: list[str] = []
        self.family: dict[int, psutil.Process] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.strip())

    def wait_for(self, line: str, timeout_s: float = 90.0) -> None:
        wait_until(lambda: any(text.startswith(line) for text in self.lines) or self.process.poll() is not None, timeout_s)
        assert any(text.startswith(line) for text in self.lines), self.lines

    def look(self) -> list[psutil.Process]:
        """All processes below the driver, remembered for `strays`."""
        try:
            found = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            found = []
        self.family.update({process.pid: process for process in found})
        return found

    def find(self, name: str) -> psutil.Process:
        for process in self.look():
            try:
                if name in process.name() or any(name in word for word in process.cmdline()[:1]):
                    return process
            except psutil.Error:
                continue
        raise NothingToKill(name)

    def end(self, timeout_s: float = 60.0) -> int:
        code = self.process.wait(timeout_s)
        self._reader.join(5)
        return code

    def strays(self) -> list[str]:
        """Processes of the family that still run."""
        running = []
        for process in self.family.values():
            try:
                if process.is_running() and process.status() != "zombie":
                    running.append(str(process))
            except psutil.NoSuchProcess:
                continue
        return running

    def wait_until_gone(self, timeout_s: float) -> None:
        until_s = time.monotonic() + timeout_s
        while self.strays():
            assert time.monotonic() < until_s, self.strays()
            time.sleep(0.05)

    def session(self) -> Path:
        return Path(tempfile.gettempdir()) / f"orc{cluster._host_tag()}-{self.process.pid}"


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, "waited too long"
        time.sleep(0.05)


@pytest.fixture
def drivers() -> Iterator[list[Driver]]:
    started: list[Driver] = []
    yield started
    for driver in started:
        driver.look()
        for process in [driver.process, *driver.family.values()]:
            if isinstance(process, subprocess.Popen) or process.is_running():
                process.kill()


def content(store: Path) -> dict[str, str]:
    return {record.label: record.content_digest for record in api.open_workspace(str(store)).artifacts.all_records()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Content digests by node; they do not depend on how long the stages sleep, only on the settings, which the key holds."""
    driver = Driver(tmp_path_factory.mktemp("undisturbed"), seconds=3.0, executor="inline")
    assert driver.end() == 0
    return content(driver.store)


def finish(driver: Driver, undisturbed: dict[str, str], drivers: list[Driver], *, executor: str = "inline") -> Driver:
    """Submit again: it completes, repeats nothing that was finished, and ends in the same content."""
    finished = set(content(driver.store))
    cluster.sweep_sessions()  # as the next run on Ray does
    driver.wait_until_gone(30)
    assert not driver.session().exists()
    again = Driver(driver.store.parent, executor=executor)
    drivers.append(again)
    assert again.end() == 0, again.lines
    assert content(driver.store) == undisturbed
    assert not {line.split()[1] for line in again.lines if line.startswith("node_started")} & finished
    assert list((driver.store / "leases").iterdir()) == []
    assert [
        path for place in ("objects", "attempts", "checkpoints") for path in (driver.store / "work" / place).glob("*")
    ] == []
    return again


def kill(driver: Driver, victim: str) -> None:
    driver.look()
    if victim == "driver":
        driver.process.kill()
    else:
        driver.find({"host": "StageHost", "raylet": "raylet", "gcs": "gcs_server"}[victim]).kill()


def run_and_kill(driver: Driver, victim: str, undisturbed: dict[str, str], drivers: list[Driver]) -> None:
    kill(driver, victim)
    code = driver.end(45)
    if victim == "host" or (victim == "raylet" and code == 0):  # killed after its last node had ended, it is not missed
        assert code == 0, driver.lines
        assert content(driver.store) == undisturbed
    elif victim == "driver":
        assert code == -signal.SIGKILL
    else:
        assert code == 7, driver.lines
        assert any("has died" in line for line in driver.lines)
        driver.wait_until_gone(20)  # our own end leaves nothing, with no help from a next run
        assert not driver.session().exists()
    finish(driver, undisturbed, drivers)


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("victim", ["driver", "host", "raylet", "gcs"])
def test_a_killed_process_never_costs_the_run(tmp_path, undisturbed, drivers, tally, victim: str) -> None:
    """The run goes on (a host), or ends at once and is continued by submitting again; nothing strays, nothing is lost."""
    driver = Driver(tmp_path)
    drivers.append(driver)
    driver.wait_for("node_started s")
    wait_until(lambda: any(path.name.isdigit() for path in driver.store.glob("work/checkpoints/*/*")), 30)
    run_and_kill(driver, victim, undisturbed, drivers)
    tally.add(f"kill on Ray: {victim}")


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_preemption_saves_stops_and_is_continued(tmp_path, undisturbed, drivers) -> None:
    """SIGTERM with half a minute of grace: the run ends by itself within seconds, and the next goes on where it stopped."""
    driver = Driver(tmp_path)
    drivers.append(driver)
    driver.wait_for("node_started s")
    wait_until(lambda: any(path.name.isdigit() for path in driver.store.glob("work/checkpoints/*/*")), 30)
    driver.look()
    driver.process.send_signal(signal.SIGTERM)
    assert driver.end(30) == 143
    assert "state cancelled" in driver.lines
    assert not driver.session().exists()
    workspace = api.open_workspace(str(driver.store))
    assert api.status("@last", workspace=workspace).state == "cancelled"
    finish(driver, undisturbed, drivers)
    steps = [record.measurements["num_steps_resumed"] for record in workspace.artifacts.all_records("probe.sleep")]
    assert max(steps) >= 20


@pytest.mark.ray
@pytest.mark.xdist_group("ray")
def test_two_submissions_at_once_share_the_work(tmp_path, undisturbed, drivers) -> None:
    """Two terminals, one file: each artifact is made once, both runs end well, and nothing of either stays behind."""
    pair = [Driver(tmp_path), Driver(tmp_path)]
    drivers.extend(pair)
    for driver in pair:
        driver.wait_for("node_done a")
        driver.look()
    for driver in pair:
        assert driver.end(90) == 0, driver.lines
    made = [
        line.split()[1] for driver in pair for line in driver.lines if line.startswith("node_done") and line.endswith(" done")
    ]
    assert sorted(made) == ["a", "b", "end", "s", "t"]
    assert content(pair[0].store) == undisturbed
    for driver in pair:
        driver.wait_until_gone(30)
        assert not driver.session().exists()
    holders = Leases(api.open_workspace(str(pair[0].store)).store, run="test")
    assert [name for name in holders.store.list("leases") if holders.holder(name) is not None] == []


@pytest.mark.chaos
@pytest.mark.ray
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("victim", ["driver", "host", "raylet"])
@pytest.mark.parametrize("seed", range(5))
def test_kills_at_random_moments(tmp_path, undisturbed, drivers, tally, victim: str, seed: int) -> None:
    """At any moment, the start of Ray included."""
    generator = random.Random(f"{victim} {seed}")
    driver = Driver(tmp_path)
    drivers.append(driver)
    if victim != "driver":
        driver.wait_for("node_started a")
    time.sleep(generator.uniform(0, 9 if victim == "driver" else 4))
    if driver.process.poll() is not None:
        finish(driver, undisturbed, drivers)
        return
    tally.seed = str(seed)
    try:
        run_and_kill(driver, victim, undisturbed, drivers)
        tally.add(f"kill on Ray: {victim}")
    except NothingToKill:
        assert driver.end() == 0, driver.lines
        finish(driver, undisturbed, drivers)
