"""Runs on a cluster of three nodes with token authentication: as jobs, from several shells, with drivers and nodes that die.

The nodes are on this machine, and what is tested is the command line that users type.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from cluster_shell import DEADLINE_S, TOKEN, Cluster, digests

from orchestrator import api

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray"), pytest.mark.timeout(600)]

SPREAD = """
version: 1
name: spread
nodes:
  a: {stage: probe.echo, params: {value: 1}}
  b: {stage: probe.bytes, params: {size: 300000}, inputs: {input: a}, resources: {custom: {big: 1}}}
  c: {stage: probe.echo, params: {value: 2}, inputs: {inputs: a}, resources: {gpus: 0.5}}
  d: {stage: probe.echo, params: {value: {deep: [1, 2.5, null]}}, inputs: {inputs: [b, c]}}
"""
PLACED = """
version: 1
name: placed
nodes:
  spare: {stage: probe.sleep, params: {seconds: 30}, resources: {custom: {spare: 1}}}
  half: {stage: probe.sleep, params: {seconds: 31}, resources: {cpus: 0.5, gpus: 0.5}}
  other_half: {stage: probe.sleep, params: {seconds: 32}, resources: {cpus: 0.5, gpus: 0.5}}
  whole: {stage: probe.sleep, params: {seconds: 33}, resources: {cpus: 0.5, gpus: 1}}
  none_left: {stage: probe.sleep, params: {seconds: 34}, resources: {cpus: 0.5, gpus: 0.5}}
"""
LONG = """
version: 1
name: long
nodes:
  a: {stage: probe.sleep, params: {seconds: 30}, resources: {custom: {CUSTOM: 1}}, retry: {backoff: 100ms}}
"""


slow = pytest.mark.slow  # together they take a minute


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    started = Cluster(tmp_path_factory.mktemp("cluster"))
    started.add("big", num_cpus=2, num_gpus=2, resources={"big": 1})
    started.add("spare", num_cpus=2, resources={"spare": 1})
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
    """The terminal that submitted may be closed; the same submit again attaches to the run instead of beginning another.

    They read the store, without a token. Each stage is on a machine that has what it asks for: its resource, its part of a GPU.
    """
    run = cluster.detached(PLACED)
    assert cluster.detached(PLACED) == run

    def machines() -> dict[str, str]:
        nodes = cluster.status(run).nodes.values()
        return {node.label: cluster.machine_of(cluster.holder(node.key)) for node in nodes if node.state == "running"}

    on_big = dict.fromkeys(("half", "other_half", "whole"), "big")
    cluster.wait_until(lambda: machines() == {"spare": "spare", **on_big})
    code, said = cluster.call("status", run, token=None)
    assert code == 0
    assert "running" in said
    code, said = cluster.call("wait", run, "--timeout", "1s", token=None)
    assert code == 124
    code, said = cluster.call("cancel", run, token=None)
    assert (code, cluster.status(run).state) == (0, "cancelled"), said
    assert cluster.call("wait", run, token=None)[0] == 130


@slow
def test_ctrl_c_leaves_the_run_and_a_second_one_asks_it_to_stop(cluster: Cluster) -> None:
    text = LONG.replace("CUSTOM", "spare").replace("30", "31")
    (cluster.folder / "w.yaml").write_text(text)
    process = cluster.begin("submit", "w.yaml", "--address", cluster.url)
    cluster.wait_until(lambda: api_state(cluster) == "running")
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
    """What another run has taken over meanwhile is waited for, not made twice."""
    text = LONG.replace("CUSTOM: 1", "spare: 0.5").replace("30", "8")
    (cluster.folder / "w.yaml").write_text(text)
    process = cluster.begin("submit", "w.yaml", "--address", cluster.url)
    cluster.wait_until(lambda: api_state(cluster) == "running")
    run = cluster.status("@last")
    cluster.wait_until(lambda: cluster.has_saved(run.id, "a"))
    other = cluster.detached(text.replace("name: long", "name: other"))
    cluster.wait_until(lambda: cluster.status(other).nodes["a"].state == "waiting")
    os.kill(cluster.holder(f"run-{run.id}"), signal.SIGKILL)
    said = "".join(process.communicate(timeout=DEADLINE_S))
    assert process.returncode == 7, said
    assert "submit the same again: it continues" in said
    assert cluster.status(run.id).state == "interrupted"

    code, said = cluster.submit(text, "--address", cluster.url)
    assert code == 0, said
    again = cluster.status("@last")
    assert again.workflow == "long"
    assert again.nodes["a"].state == "hit" or again.nodes["a"].ending == "shared"
    assert cluster.call("wait", other)[0] == 0
    assert cluster.status(other).nodes["a"].ending == "done"
    assert cluster.status(other).nodes["a"].metrics["num_steps_resumed"] > 0


@slow
def test_a_cluster_of_others_is_attached_to_and_left_running(cluster: Cluster) -> None:
    text = SPREAD.replace("value: 1", "value: 79")
    code, said = cluster.submit(text, "--address", cluster.address)
    assert code == 0, said
    assert cluster.status("@last").count("done") == 4
    assert cluster.jobs()

    for address, token, why in (
        (cluster.address, "wrong", "does not accept the token"),
        ("127.0.0.1:1", TOKEN, "nothing answers"),
    ):
        code, said = cluster.submit(text.replace("value: 79", "value: 81"), "--address", address, token=token)
        assert (code, why in said) == (7, True), said


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
    run = cluster.detached(LONG.replace("CUSTOM", "shaky").replace("30", "9"))
    cluster.wait_until(lambda: cluster.status(run).nodes["a"].state == "running")
    cluster.wait_until(lambda: cluster.has_saved(run, "a"))
    cluster.kill("doomed")
    cluster.wait_until(lambda: "attempt_failed" in cluster.happened(run))
    cluster.add("heir", num_cpus=1, resources={"shaky": 1})
    assert cluster.call("wait", run)[0] == 0
    node = cluster.status(run).nodes["a"]
    assert node.state == "done"
    assert node.attempt >= 2
    assert node.metrics["num_steps_resumed"] > 0
    assert "machines_changed" in cluster.happened(run)


@slow
def test_after_the_loss_of_the_whole_cluster_a_new_head_continues(cluster: Cluster) -> None:
    """Without fault tolerance of its head a cluster forgets its jobs; the store does not."""
    text = LONG.replace("{custom: {CUSTOM: 1}}", "{cpus: 1}").replace("30", "7")
    run = cluster.detached(text)
    cluster.wait_until(lambda: cluster.has_saved(run, "a"))
    cluster.restart("second")
    assert cluster.status(run).state == "interrupted"
    code, said = cluster.submit(text, "--address", cluster.url)
    assert code == 0, said
    assert cluster.status("@last").nodes["a"].metrics["num_steps_resumed"] > 0
