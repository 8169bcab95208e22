"""Whole runs on S3: inline and on Ray, used again by a second machine, planned with requests side by side."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from servers import Server, started

from orchestrator import api
from orchestrator.errors import StoreError
from orchestrator.store.s3_client import S3Client

WORKFLOW = Path(__file__).parents[2] / "workflows/smoke/engine.yaml"
NUM_NODES = 7


def submit(place: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, as another machine would run it."""
    command = [str(Path(sys.executable).with_name("orchestrator")), "--store", place, "submit", str(WORKFLOW), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == code, done.stderr
    return done


@pytest.mark.parametrize("executor", ["inline", pytest.param("ray", marks=[pytest.mark.ray, pytest.mark.xdist_group("ray")])])
def test_a_second_machine_uses_all_that_the_first_made(moto: Server, place: str, tmp_path: Path, monkeypatch, executor) -> None:
    """That is what a shared store is for."""
    submit(place, "--executor", executor)
    assert len(list(api.open_workspace(place).artifacts.all_records())) == NUM_NODES
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "second"))
    again = submit(place, "--executor", executor)
    assert f"all {NUM_NODES} nodes are finished" in again.stderr + again.stdout
    status = api.status("@last", workspace=api.open_workspace(place))
    assert status.state == "done"
    assert not (tmp_path / "second/blobs").exists()


def test_a_report_is_made_of_a_bucket_by_a_machine_that_ran_nothing(
    moto: Server, place: str, tmp_path: Path, monkeypatch
) -> None:
    submit(place, "--executor", "inline")
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "second"))
    command = [str(Path(sys.executable).with_name("orchestrator")), "--store", place, "report", "--out", "r.html"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "r.html").read_text()
    assert f"orchestrator --store {place} artifacts get " in page
    assert all(f'data-node="{name}"' in page for name in ("start", "wide", "gate", "bytes"))


def test_a_run_on_a_server_without_preconditions_is_refused_before_anything_runs(
    tmp_path: Path, place: str, monkeypatch
) -> None:
    """Half a day of training must not be at stake; with the user's word that no other machine writes there, it runs."""
    found = started("rclone")
    for name, value in {**found.variables, "ORCHESTRATOR_CACHE": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ORCHESTRATOR_S3_ONE_MACHINE")
    refused = submit(place, "--executor", "inline", code=StoreError.exit_code)
    assert "does not honour" in refused.stderr
    assert "Traceback" not in refused.stderr
    monkeypatch.setenv("ORCHESTRATOR_S3_ONE_MACHINE", "1")
    allowed = submit(place, "--executor", "inline", "--quiet")
    assert allowed.stderr.count("does not honour") == 1


def test_no_secret_is_written_anywhere(moto: Server, place: str, tmp_path: Path, monkeypatch) -> None:
    """Records and logs are shared with people who must not have the keys."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-tell-anybody")
    done = submit(place, "--executor", "inline")
    assert "do-not-tell" not in done.stdout + done.stderr
    client = moto.client()
    prefix = place.removeprefix("s3://bucket/")
    for page in client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=prefix):
        for found in page.get("Contents", ()):
            assert b"do-not-tell" not in client.get_object(Bucket="bucket", Key=found["Key"])["Body"].read()
    for path in (tmp_path / "cache").rglob("*"):
        assert not path.is_file() or b"do-not-tell" not in path.read_bytes()


def test_a_plan_asks_for_its_nodes_side_by_side(moto: Server, place: str, tmp_path: Path, monkeypatch) -> None:
    """Three hundred answers one after the other take many seconds from a server that is far away."""
    text = "version: 1\nname: wide\nnodes:\n  a: {stage: probe.echo, foreach: {value: [%s]}}\n"
    file = tmp_path / "wide.yaml"
    file.write_text(text % ", ".join(map(str, range(40))))
    workspace = api.open_workspace(place)
    api.submit(api.plan(file, workspace=workspace), workspace=workspace, executor="inline")
    monkeypatch.setenv("ORCHESTRATOR_CACHE", str(tmp_path / "second"))  # where nothing of it has been seen
    at_once, most = [0], [0]
    lock, call = threading.Lock(), S3Client.call

    def counted(self, operation, path="", **arguments):
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        try:
            time.sleep(0.02)
            return call(self, operation, path, **arguments)
        finally:
            with lock:
                at_once[0] -= 1

    monkeypatch.setattr(S3Client, "call", counted)
    plan = api.plan(file, workspace=api.open_workspace(place))
    assert not plan.has_work
    assert most[0] >= 10
