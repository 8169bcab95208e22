"""Runs on a cluster of three nodes with token authentication: as jobs, from several shells, with drivers and nodes that die.

The nodes are on this machine, and the cluster is in a process of its own: what is tested is the command line that users type.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from orchestrator import api
from orchestrator.store.lease import Leases

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]

TOKEN = "a-token-that-must-be-in-no-output-0123456789"
DEADLINE_S = 120.0
SPREAD = """
version: 1
name: spread
nodes:
  a: {stage: probe.echo, params: {value: 1}}
  b: {stage: probe.bytes, params: {size: 300000}, inputs: {input: a}, resources: {custom: {big: 1}}}
  c: {stage: probe.echo, params: {value: 2}, inputs: {inputs: a}, resources: {gpus: 0.5}}
  d: {stage: probe.echo, params: {value: {deep: [1, 2.5, null]}}, inputs: {inputs: [b, c]}}
"""
LONG = """
version: 1
name: long
nodes:
  a: {stage: probe.sleep, params: {seconds: 30}, resources: {custom: {CUSTOM: 1}}, retry: {backoff: 100ms}}
"""


class Cluster:
    """Three nodes: a head with one core, `big` with two fake GPUs, `spare`. And a shell to type commands in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = {**environment, "ORCHESTRATOR_STORE": str(folder / "store"), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "ray_cluster.py")],
            env={**self.environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        first = self._answer()
        self.url, self.address = first["url"], first["address"]
        self.add("big", num_cpus=2, num_gpus=2, resources={"big": 1})
        self.add("spare", num_cpus=2, resources={"spare": 1})
        self.workspace = api.open_workspace(str(folder / "store"))

    def add(self, name: str, **options: Any) -> None:
        self._do("add", name, options)

    def kill(self, name: str) -> None:
        self._do("kill", name, {})

    def restart(self, name: str, **options: Any) -> None:
        self._do("restart", name, options)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def begin(self, *arguments: str, token: str | None = TOKEN) -> subprocess.Popen[str]:
        environment = {**self.environment, **({"RAY_AUTH_TOKEN": token} if token else {"HOME": str(self.folder)})}
        return subprocess.Popen(
            [sys.executable, "-m", "orchestrator", *arguments],
            cwd=self.folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def call(self, *arguments: str, token: str | None = TOKEN) -> tuple[int, str]:
        """Exit code of a command, and all that it said."""
        process = self.begin(*arguments, token=token)
        said = "".join(process.communicate(timeout=DEADLINE_S))
        assert TOKEN not in said
        return process.returncode, said

    def submit(self, text: str, *arguments: str, **options: Any) -> tuple[int, str]:
        (self.folder / "w.yaml").write_text(text)
        return self.call("submit", "w.yaml", *arguments, **options)

    def detached(self, text: str, *arguments: str) -> str:
        """The id of a run that was submitted and left alone."""
        code, said = self.submit(text, "--address", self.url, "--detach", "--json", *arguments)
        assert code == 0, said
        return str(json.loads(said.splitlines()[-1])["run"])

    def jobs(self) -> list[dict[str, Any]]:
        request = urllib.request.Request(f"{self.url}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            found: list[dict[str, Any]] = json.loads(answer.read())
        return found

    def status(self, run: str) -> api.RunStatus:
        return api.status(run, workspace=self.workspace)

    def holder(self, name: str) -> int:
        """The process that holds a lease."""
        holder = Leases(self.workspace.store, run="test").holder(name)
        assert holder is not None
        return holder.process_id

    def _do(self, action: str, name: str, options: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"action": action, "name": name, "options": options}) + "\n")
        self.process.stdin.flush()
        self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        raise AssertionError("the cluster did not start")


def wait_until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < until_s
        time.sleep(0.1)


def digests(workspace: api.Workspace, status: api.RunStatus) -> dict[str, str]:
    found = {label: workspace.artifacts.find(node.stage, node.key) for label, node in status.nodes.items()}
    return {label: record.content_digest for label, record in found.items() if record is not None}


slow = pytest.mark.slow  # together they take a minute


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    yield started
    started.close()


def test_a_job_makes_the_same_content_as_one_machine_and_a_second_submit_runs_nothing(
    cluster: Cluster, workspace: api.Workspace, plan_text: Any
) -> None:
    """Where a workflow runs must not show in what it makes; what is there already asks nothing of the cluster."""
    code, said = cluster.submit(SPREAD, "--address", cluster.url)
    assert code == 0, said
    status = cluster.status("@last")
    assert [job["submission_id"] for job in cluster.jobs() if job["submission_id"]] == [status.id]
    alone = SPREAD.replace(", resources: {custom: {big: 1}}", "").replace(", resources: {gpus: 0.5}", "")
    here = api.submit(plan_text(alone), workspace=workspace, executor="inline")
    assert len(digests(cluster.workspace, status)) == 4
    assert digests(cluster.workspace, status) == digests(workspace, here.status)
    record = cluster.workspace.artifacts.find("probe.echo", status.nodes["a"].key)
    assert record is not None
    assert "submit" in record.provenance["command"], "who asked for it, not the job's own command line"

    code, said = cluster.submit(SPREAD, "--address", cluster.url)
    assert (code, len(cluster.jobs())) == (0, 1), said
    assert "nothing to do" in said


def test_without_the_right_token_nothing_is_recorded(cluster: Cluster) -> None:
    text = SPREAD.replace("value: 1", "value: 77")
    for token, why in ((None, "there is none here"), ("wrong", "does not accept the token")):
        code, said = cluster.submit(text, "--address", cluster.url, token=token)
        assert code == 7
        assert why in said
        assert "RAY_AUTH_TOKEN_PATH" in said
    assert all(run.content["text"] != text for run in cluster.workspace.ledger.runs())


def test_an_interpreter_that_is_not_there_is_told_with_the_end_of_the_jobs_log(cluster: Cluster) -> None:
    text = SPREAD.replace("value: 1", "value: 78")
    code, said = cluster.submit(text, "--address", cluster.url, "--python", "/no/such/python")
    assert code == 7
    assert "/no/such/python: not found" in said
    assert cluster.status("@last").state == "interrupted"


def test_a_run_is_watched_shared_and_cancelled_from_other_shells(cluster: Cluster) -> None:
    """The terminal that submitted may be closed; the same submit again attaches to the run instead of beginning another."""
    text = LONG.replace("CUSTOM", "spare")
    run = cluster.detached(text)
    assert cluster.detached(text) == run
    wait_until(lambda: cluster.status(run).nodes["a"].state == "running")
    code, said = cluster.call("status", run)
    assert code == 0
    assert "running" in said
    code, said = cluster.call("wait", run, "--timeout", "1s")
    assert code == 124
    code, said = cluster.call("cancel", run)
    assert (code, cluster.status(run).state) == (0, "cancelled"), said
    assert cluster.call("wait", run)[0] == 130


@slow
def test_ctrl_c_leaves_the_run_and_a_second_one_asks_it_to_stop(cluster: Cluster) -> None:
    text = LONG.replace("CUSTOM", "spare").replace("30", "31")
    (cluster.folder / "w.yaml").write_text(text)
    process = cluster.begin("submit", "w.yaml", "--address", cluster.url)
    wait_until(lambda: api_state(cluster) == "running")
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if "Ctrl-C again now" in line:
            break
    assert "Ctrl-C again now" in said
    run = cluster.status("@last")
    assert run.state == "running"
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_S) == 130
    assert cluster.call("wait", run.id)[0] == 130
    assert cluster.status(run.id).state == "cancelled"


def api_state(cluster: Cluster) -> str:
    runs = cluster.workspace.ledger.runs()
    return cluster.status(runs[0].id).nodes["a"].state if runs and runs[0].content["workflow"] == "long" else ""


@slow
def test_after_the_death_of_its_driver_a_run_is_over_and_submitting_again_continues(cluster: Cluster) -> None:
    text = LONG.replace("CUSTOM", "spare").replace("30", "8")
    (cluster.folder / "w.yaml").write_text(text)
    process = cluster.begin("submit", "w.yaml", "--address", cluster.url)
    wait_until(lambda: api_state(cluster) == "running")
    run = cluster.status("@last")
    saved = cluster.folder / "store" / "work" / "checkpoints" / run.nodes["a"].key
    wait_until(lambda: any(path.name.isdigit() for path in saved.glob("*")))
    os.kill(cluster.holder(f"run-{run.id}"), signal.SIGKILL)
    said = "".join(process.communicate(timeout=DEADLINE_S))
    assert process.returncode == 7, said
    assert "submit the same again: it continues" in said
    assert cluster.status(run.id).state == "interrupted"

    code, said = cluster.submit(text, "--address", cluster.url)
    assert code == 0, said
    assert cluster.status("@last").nodes["a"].metrics["num_steps_resumed"] > 0


@slow
def test_a_cluster_of_others_is_attached_to_and_left_running(cluster: Cluster) -> None:
    text = SPREAD.replace("value: 1", "value: 79")
    code, said = cluster.submit(text, "--address", cluster.address)
    assert code == 0, said
    assert cluster.status("@last").count("done") == 4
    assert cluster.jobs()


def test_what_no_machine_of_the_cluster_offers_is_refused(cluster: Cluster) -> None:
    code, said = cluster.submit(
        SPREAD.replace("value: 1", "value: 80").replace("gpus: 0.5", "gpus: 4"), "--address", cluster.url
    )
    assert code == 3
    assert 'node "c" can never run here: it asks for 1 CPU, 4 GPU' in said


@slow
def test_nodes_come_and_go_while_a_run_goes_on(cluster: Cluster) -> None:
    """A stage whose machine is lost goes on on another one, from what it had saved; a new machine is used."""
    cluster.add("doomed", num_cpus=1, resources={"shaky": 1})
    run = cluster.detached(LONG.replace("CUSTOM", "shaky").replace("30", "12"))
    wait_until(lambda: cluster.status(run).nodes["a"].state == "running")
    saved = cluster.folder / "store" / "work" / "checkpoints" / cluster.status(run).nodes["a"].key
    wait_until(lambda: any(path.name.isdigit() for path in saved.glob("*")))
    cluster.kill("doomed")
    wait_until(lambda: cluster.status(run).nodes["a"].state == "retrying")
    cluster.add("heir", num_cpus=1, resources={"shaky": 1})
    assert cluster.call("wait", run)[0] == 0
    node = cluster.status(run).nodes["a"]
    assert node.state == "done"
    assert node.attempt >= 2
    assert node.metrics["num_steps_resumed"] > 0
    events, _ = cluster.workspace.ledger.events(run)
    assert "machines_changed" in [event["type"] for event in events]


@slow
def test_after_the_loss_of_the_whole_cluster_a_new_head_continues(cluster: Cluster) -> None:
    """Without fault tolerance of its head a cluster forgets its jobs; the store does not."""
    text = LONG.replace("{custom: {CUSTOM: 1}}", "{cpus: 1}").replace("30", "9")
    run = cluster.detached(text)
    saved = cluster.folder / "store" / "work" / "checkpoints" / cluster.status(run).nodes["a"].key
    wait_until(lambda: any(path.name.isdigit() for path in saved.glob("*")))
    cluster.restart("second")
    assert cluster.status(run).state == "interrupted"
    code, said = cluster.submit(text, "--address", cluster.url)
    assert code == 0, said
    assert cluster.status("@last").nodes["a"].metrics["num_steps_resumed"] > 0
