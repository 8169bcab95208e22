"""Ray's memory monitor ends a stage host. Here it is told that any use of memory is too much, so nothing needs to be filled."""

from __future__ import annotations

import pytest

from orchestrator import api

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]
WORKFLOW = """
version: 1
name: full
nodes:
  s: {stage: probe.sleep, params: {seconds: 30}, resources: {memory: 64MiB}, retry: {attempts: 2, backoff: 10ms}}
"""


def test_what_ray_ends_for_memory_is_tried_with_more_and_told_as_such(plan_text, workspace: api.Workspace, monkeypatch) -> None:
    """A lost process alone would be tried again with just as little."""
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "200")
    result = api.submit(plan_text(WORKFLOW), workspace=workspace, executor="ray")
    assert result.state is api.State.FAILED
    failures = [event for event in workspace.ledger.events(result.run)[0] if event["type"] == "attempt_failed"]
    assert [event["class"] for event in failures] == ["out_of_memory"] * 2
    assert [event["error_type"] for event in failures] == ["OutOfMemoryError"] * 2
    assert failures[0]["note"] == "attempt 2 will use memory 0.12GiB (policy oom: grow)"
    assert result.status.nodes["s"].failure_class == "out_of_memory"
