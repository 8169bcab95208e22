"""The Ray dashboard beside a run: names that people know, the job's metadata, and our metrics, all read back over HTTP."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator

import pytest
from chromium import wait_until
from watched_run import SLOW, WatchedRun

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatchedRun]:
    started = WatchedRun(tmp_path_factory.mktemp("watched"))
    yield started
    started.process.terminate()
    started.process.wait(60)


def test_calls_and_hosts_carry_the_names_of_run_node_and_trial(run: WatchedRun) -> None:
    wanted = {f"{run.run}/quick", f"{run.run}/failing", f"{run.run}/{SLOW}"}
    wait_until(lambda: wanted <= {task["name"] for task in run.listed("tasks")})  # workers tell the dashboard now and then
    hosts = [actor["name"] for actor in run.listed("actors")]
    assert hosts
    assert all(host.startswith(f"{run.run}/host-") for host in hosts), hosts


def test_the_job_says_which_run_and_workflow_it_is(run: WatchedRun) -> None:
    jobs = json.loads(run.get(f"{run.url}/api/jobs/"))
    metadata = [job["metadata"] for job in jobs]
    assert any(found.get("workflow") == "watched" and found.get("orchestrator_run") == run.run for found in metadata), jobs


def test_prometheus_is_told_of_nodes_attempts_seconds_store_and_leases(run: WatchedRun) -> None:
    for name in ("nodes", "attempts", "cpu_seconds", "store_latency_seconds", "lease_age_seconds"):
        assert run.metrics(
            f"orchestrator_{name}"
        )  # a gauge is in a scrape if it was set since the last one, so not all at once


def test_without_its_token_the_dashboard_tells_nothing(run: WatchedRun) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        run.get(f"{run.url}/api/v0/actors", with_token=False)
    assert run.token_file.stat().st_mode & 0o077 == 0
    assert run.url.startswith("http://127.0.0.1:")
