"""A run of its own process with Ray's dashboard beside it, for tests that look at it over HTTP or in a browser."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

WORKFLOW = """
version: 1
name: watched
nodes:
  quick: {stage: probe.echo, params: {value: 1}}
  failing: {stage: probe.fail, params: {mode: error}}
  search:
    sweep: {trials: 1, sampler: random, objectives: {slow.value: maximize}, space: {slow.value: {choice: [3]}}}
    nodes:
      slow: {stage: probe.sleep, params: {seconds: 90}}
"""
SLOW = "search/t0000/slow"
DEADLINE_S = 60.0


class WatchedRun:
    """A run of its own process, with a dashboard; asks it over HTTP."""

    def __init__(self, folder: Path) -> None:
        (folder / "w.yaml").write_text(WORKFLOW)
        environment = {**os.environ, "RAY_metrics_report_interval_ms": "500", "ORCHESTRATOR_STORE": str(folder / "store")}
        environment = {name: value for name, value in environment.items() if not name.startswith("RAY_AUTH")}
        command = [sys.executable, "-m", "orchestrator", "--json", "submit", "w.yaml", "--dashboard", "--keep-going"]
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        ready = self.wait_for([("dashboard_ready", None)])
        self.run, self.url, self.token_file = ready["run"], ready["url"], Path(ready["token_file"])
        self.wait_for([("node_failed", "failing"), ("node_done", "quick"), ("node_progress", SLOW)])

    def wait_for(self, wanted: list[tuple[str, str | None]]) -> dict[str, Any]:
        """Read events until one of each kind and node has come, in any order; returns the last of them."""
        assert self.process.stdout is not None
        left = set(wanted)
        for line in self.process.stdout:
            event = json.loads(line)
            assert "type" in event, event  # Ray did not start
            left.discard((event["type"], event.get("node")))
            if not left:
                return dict(event)
        raise AssertionError(f"the run ended without {left}")

    def get(self, url: str, *, with_token: bool = True) -> str:
        headers = {"Authorization": f"Bearer {self.token_file.read_text()}"} if with_token else {}
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return str(answer.read().decode())

    def listed(self, what: str) -> list[dict[str, Any]]:
        found = json.loads(self.get(f"{self.url}/api/v0/{what}?detail=1"))
        return list(found["data"]["result"]["result"])

    def metrics(self, containing: str) -> list[str]:
        """Our metrics as a scraper gets them, once there is one with this text."""
        node = json.loads(self.get(f"{self.url}/nodes?view=summary"))["data"]["summary"][0]
        address = f"http://{node['ip']}:{node['raylet']['metricsExportPort']}/metrics"
        deadline = time.monotonic() + DEADLINE_S
        while time.monotonic() < deadline:
            lines = [line for line in self.get(address, with_token=False).splitlines() if line.startswith("ray_orchestrator_")]
            if any(containing in line for line in lines):
                return lines
            time.sleep(0.5)
        raise AssertionError(f"{containing} is in none of {lines}")
