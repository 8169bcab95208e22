"""Kills a run with a search (`killing.py` says how to call it).

It draws with TPE and stops early with ASHA; its stage saves each epoch.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]  # the first, or tests/stages hides the package

import killing
import pyarrow.parquet  # noqa: F401 - imported once, for all forks
from kill_series import quicken
from sweeps.search_kit import BEST, Story, logged, told, train, workflow

import stages.probe.sleep
from orchestrator import api
from orchestrator.sweeps import history, tune  # noqa: F401 - as above
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text
from orchestrator.workflow.sweep_result import SWEEP_STAGE

SEARCH = {
    "sampler": {"kind": "tpe", "startup_trials": 2},
    "scheduler": {"kind": "asha", "metric": "tune.value", "grace": 2, "reduction_factor": 2},
    "trials": 5,
    "finalists": {"top": 1, "seeds": [5]},
}
NODES = {"tune": "{stage: probe.sleep, inputs: {inputs: base}}"}
TEXT = workflow(settings=SEARCH, nodes=NODES, after=BEST)


def story_of(folder: Path) -> Story:
    workspace = api.open_workspace(str(folder))
    plan = api.plan_checked(check_workflow(load_text(TEXT, file="w.yaml")), workspace=workspace)
    return Story(api.submit(plan, workspace=workspace, executor="inline"), workspace, plan)


class Search:
    """The run."""

    def submit(self, folder: Path) -> str:
        return story_of(folder).ended.state.value

    def look(self, folder: Path) -> dict[str, Any]:
        """What a kill has left: finished nodes, trials that have ended, saved epochs."""
        workspace = api.open_workspace(str(folder))
        return {
            "done": {record.key: record.label for record in workspace.artifacts.all_records() if record.stage != SWEEP_STAGE},
            "ended": [record.number for record in logged(workspace) if record.state != "running"],
            "saved": {
                path.parent.name: int(path.name) for path in sorted(folder.glob("work/checkpoints/*/*")) if path.name.isdigit()
            },
            "settled": any(workspace.artifacts.all_records(SWEEP_STAGE)),
        }

    def finish(self, folder: Path) -> dict[str, Any]:
        story = story_of(folder)
        workspace = story.workspace
        resumed = {
            record.key: record.measurements["num_epochs_resumed"]
            for record in workspace.artifacts.all_records("probe.sleep")
            if record.run == story.ended.run
        }
        again = story_of(folder)
        left = [
            str(path.relative_to(folder)) for place in ("objects", "attempts") for path in (folder / "work" / place).glob("*")
        ]
        return {
            "state": story.state,
            "result": told(story.result()),
            "made": [event["key"] for event in story.of("node_done") if event["ending"] == "done"],
            "tried": story.trials("trial_started"),
            "searched": bool(story.of("sweep_started")),
            "resumed": resumed,
            "left": left,
            "leases": list(workspace.store.list("leases")),
            "again": [*again.attempts, *again.of("sweep_started")],
        }

    def compare(self, seen: dict[str, Any], end: dict[str, Any], reference: dict[str, Any]) -> list[str]:
        problems = []
        if end["state"] != "done":
            problems.append(f"other: the next run ended {end['state']}")
        if end["result"] != reference["result"]:
            problems.append(f"wrong: another result: {json.dumps(end['result'])}")
        done, ended, saved = seen["done"], seen["ended"], seen["saved"]
        problems += [f"duplicate: {done[key]} was finished and made again" for key in end["made"] if key in done]
        problems += [f"duplicate: trial {number} had ended and was tried again" for number in end["tried"] if number in ended]
        problems += [
            f"lost: {key} began at epoch {epoch} though {saved[key]} was saved"
            for key, epoch in end["resumed"].items()
            if epoch < saved.get(key, 0)
        ]
        if seen["settled"] and end["searched"]:
            problems.append("duplicate: it had settled and was searched again")
        problems += [f"other: left behind: {path}" for path in end["left"]]
        problems += [f"other: a lease is left: {name}" for name in end["leases"]]
        problems += [f"other: the third run was not idle: {what}" for what in end["again"]]
        return problems


if __name__ == "__main__":
    quicken()
    stages.probe.sleep.sleep = train
    killing.main(Search(), sys.argv[1:])
