"""Kills a run of a few nodes, in a folder or on S3 (`killing.py` says how to call it).

... requests s3://BUCKET/PREFIX [elsewhere]     on the server to which the environment leads, each run with a cache of its own;
                                                `elsewhere`: another machine goes on, which knows no process of the first
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))

import killing

import stages.probe.blob
import stages.probe.echo
import stages.probe.sleep
from orchestrator import api
from orchestrator.engine import provenance
from orchestrator.report.run_status import read_run_status
from orchestrator.store import lease, processes, s3_connect, s3_transfer
from orchestrator.store.base import Store
from orchestrator.store.checkpoints import mirrored_checkpoints
from orchestrator.store.leftovers import find_leftovers, remove_leftovers
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text

WORKFLOW = """
version: 1
name: killed
nodes:
  a: {stage: probe.echo, params: {value: 1}}
  b: {stage: probe.bytes, params: {size: 5000}, inputs: {input: a}}
  s: {stage: probe.sleep, params: {seconds: 0.008}, inputs: {inputs: a}}
  c: {stage: probe.echo, params: {value: 3}, inputs: {inputs: [b, s]}}
  d: {stage: probe.bytes, params: {size: 0}, inputs: {input: c}}
"""
TTL_ELSEWHERE_S = 1.0


class Nodes:
    """The run. `url` is where its stores are, "" for the folder that is given; `elsewhere`: see above."""

    def __init__(self, url: str = "", *, elsewhere: bool = False) -> None:
        self.url = url
        self.elsewhere = elsewhere

    def workspace(self, folder: Path, *, machine: str = "first") -> api.Workspace:
        if not self.url:
            return api.open_workspace(str(folder))
        os.environ["ORCHESTRATOR_CACHE"] = str(folder / machine)
        return api.open_workspace(f"{self.url}/{folder.name}")

    def submit(self, folder: Path) -> str:
        return self._submit(self.workspace(folder)).state.value

    def _submit(self, workspace: api.Workspace) -> api.RunResult:
        plan = api.plan_checked(check_workflow(load_text(WORKFLOW, file="w.yaml")), workspace=workspace)
        return api.submit(plan, workspace=workspace, executor="inline")

    def look(self, folder: Path) -> dict[str, Any]:
        """What can be seen after a kill: finished nodes, saved steps; and every record is read whole."""
        workspace = self.workspace(folder)
        problems, done = [], {}
        for stage in workspace.store.list("artifacts"):
            for key in workspace.store.list(f"artifacts/{stage}"):
                if workspace.store.read(f"artifacts/{stage}/{key}/record.json") is None:
                    continue
                record = workspace.artifacts.find(stage, key)
                if record is None:
                    problems.append(f"torn: half a record can be seen: {stage} {key}")
                else:
                    workspace.artifacts.open(record)
                    done[record.label] = record.content_digest
        problems.extend(
            f"other: run {request.id} seems to be {state}"
            for request in workspace.ledger.runs()
            if (state := read_run_status(workspace.store, request.id).state) not in ("interrupted", "done")
        )
        saved = workspace.store.workspace("checkpoints", make=False).glob("*/*")
        steps = [int(path.name) for path in saved if path.name.isdigit()]
        return {"problems": problems, "done": done, "step": max(steps, default=0)}

    def finish(self, folder: Path) -> dict[str, Any]:
        """Submit undisturbed, and look at everything."""
        if self.elsewhere:
            lease.TTL_S = TTL_ELSEWHERE_S
            lease.host_identity = processes.host_identity = lambda: "elsewhere"
            processes._mark.cache_clear()
        workspace = self.workspace(folder, machine="second" if self.elsewhere else "first")
        store = workspace.store
        result = self._submit(workspace)
        events, _ = workspace.ledger.events(result.run)
        records = {label: workspace.artifacts.find(node.stage, node.key) for label, node in result.status.nodes.items()}
        if self.elsewhere:  # which cannot know that the first is dead: `gc` clears up once its leases' time is over
            if list(store.list("leases")):
                time.sleep(TTL_ELSEWHERE_S + 1.1)  # the server counts whole seconds
            collect_leftovers(store, finished=[node.key for node in result.status.nodes.values()])
        left = [f"{place}/{name}" for place in ("objects", "attempts", "checkpoints") for name in store.workspaces(place)]
        left += [f"checkpoints of {key} in the store" for key in mirrored_checkpoints(store)]
        left += [f"{folder.name} set aside" for folder in store.list("quarantine")]
        collect_leftovers(store, finished=[])
        left += [f"upload of {upload.path}" for upload in store.uploads()]
        return {
            "state": result.state.value,
            "digests": {label: record and record.content_digest for label, record in records.items()},
            "made": [event["node"] for event in events if event["type"] == "node_done" and event["ending"] == "done"],
            "resumed": records["s"].measurements["num_steps_resumed"] if records["s"] else None,
            "left": left,
            "leases": list(store.list("leases")),
        }

    def compare(self, seen: dict[str, Any], end: dict[str, Any], reference: dict[str, Any]) -> list[str]:
        problems = list(seen["problems"])
        if end["state"] != "done":
            problems.append(f"other: the next run ended {end['state']}")
        if end["digests"] != reference["digests"]:
            problems.append(f"wrong: other digests: {end['digests']}")
        problems += [f"duplicate: {label} was finished and made again" for label in end["made"] if label in seen["done"]]
        if "s" in end["made"] and end["resumed"] < seen["step"] and not self.elsewhere:
            problems.append(f"lost: s began at step {end['resumed']} though step {seen['step']} was saved")
        problems += [f"other: left behind: {path}" for path in end["left"]]
        problems += [f"other: a lease is left: {name}" for name in end["leases"]]
        return problems


def collect_leftovers(store: Store, *, finished: Collection[str]) -> None:
    """What `gc` does about everything but artifacts."""
    remove_leftovers(store, find_leftovers(store, finished=finished, needed=[], checkpoints_older_than_s=1e9))


def quicken() -> None:
    """What says nothing about kills and costs time."""
    provenance._commit = lambda: ("", False)  # a git process per run
    stages.probe.sleep.STEP_S, stages.probe.sleep.SAVE_EVERY_STEPS = 0.001, 2


if __name__ == "__main__":
    quicken()
    s3_transfer.PART_BYTES = 2000
    url = next((argument for argument in sys.argv if argument.startswith("s3://")), "")
    if url:
        s3_connect.connect()  # what botocore reads of its own is read once, for all forks
    words = (url, "elsewhere")
    killing.main(Nodes(url, elsewhere="elsewhere" in sys.argv), [word for word in sys.argv[1:] if word not in words])
