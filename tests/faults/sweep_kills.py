"""Kills a run with a search at one point after the other, as `kill_series.py` does with a run of nodes.

    python sweep_kills.py FOLDER FIRST STEP LAST [half]      one kill, at effect FIRST, FIRST + STEP, ...
    python sweep_kills.py FOLDER double SEED COUNT           two kills in a row, at random effects

The search draws with TPE and stops early with ASHA; its stage saves each epoch. Prints one JSON object: the number of kills,
and every broken promise.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path += [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]  # the first, or tests/stages hides the package

import kill_series
import pyarrow.parquet  # noqa: F401 - imported once, for all forks
from sweeps.search_kit import BEST, Story, logged, told, train, workflow

import stages.probe.sleep
from orchestrator import api
from orchestrator.engine import provenance
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


def submit(folder: Path) -> api.RunResult:
    return story_of(folder).ended


def story_of(folder: Path) -> Story:
    workspace = api.open_workspace(str(folder))
    plan = api.plan_checked(check_workflow(load_text(TEXT, file="w.yaml")), workspace=workspace)
    return Story(api.submit(plan, workspace=workspace, executor="inline"), workspace, plan)


def look(folder: Path) -> dict[str, Any]:
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


def finish(folder: Path) -> dict[str, Any]:
    story = story_of(folder)
    workspace = story.workspace
    resumed = {
        record.key: record.measurements["num_epochs_resumed"]
        for record in workspace.artifacts.all_records("probe.sleep")
        if record.run == story.ended.run
    }
    again = story_of(folder)
    left = [str(path.relative_to(folder)) for place in ("objects", "attempts") for path in (folder / "work" / place).glob("*")]
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


def check(folder: Path, reference: dict[str, Any], where: str) -> list[str]:
    _, answer = kill_series.in_child(lambda: [look(folder), finish(folder)])
    if "raised" in answer:
        return [f"{where}: looking, or the next run, raised {answer['raised']}"]
    seen, end = answer
    problems = []
    if end["state"] != "done":
        problems.append(f"the next run ended {end['state']}")
    if end["result"] != reference["result"]:
        problems.append(f"another result: {json.dumps(end['result'])}")
    problems += [f"{seen['done'][key]} was finished and made again" for key in end["made"] if key in seen["done"]]
    problems += [f"trial {number} had ended and was tried again" for number in end["tried"] if number in seen["ended"]]
    problems += [
        f"{key} began at epoch {epoch} though {seen['saved'][key]} was saved"
        for key, epoch in end["resumed"].items()
        if epoch < seen["saved"].get(key, 0)
    ]
    if seen["settled"] and end["searched"]:
        problems.append("it had settled and was searched again")
    problems += [f"left behind: {path}" for path in end["left"]]
    problems += [f"a lease is left: {name}" for name in end["leases"]]
    problems += [f"the third run was not idle: {what}" for what in end["again"]]
    return [f"{where}: {problem}" for problem in problems]


def main(arguments: list[str]) -> dict[str, Any]:
    provenance._commit = lambda: ("", False)
    stages.probe.sleep.sleep = train
    kill_series.submit = submit
    root = Path(arguments[0])
    _, reference = kill_series.in_child(lambda: finish(root / "reference"))
    problems: list[str] = []
    num_kills, ended = 0, False
    if arguments[1] == "double":
        generator = random.Random(int(arguments[2]))
        for number in range(int(arguments[3])):
            folder = root / str(number)
            points = [generator.randrange(1, 740), generator.randrange(1, 400)]
            for point in points:
                num_kills += kill_series.killed_at(folder, point, half=generator.random() < 0.3)
            problems += check(folder, reference, f"killed at {points}")
            shutil.rmtree(folder)
        return {"kills": num_kills, "problems": problems}
    first, step, last = (int(argument) for argument in arguments[1:4])
    for point in range(first, last + 1, step):
        folder = root / str(point)
        killed = kill_series.killed_at(folder, point, half="half" in arguments)
        num_kills += killed
        problems += check(folder, reference, f"killed at {point}")
        shutil.rmtree(folder)
        if not killed:
            ended = True
            break
    return {"kills": num_kills, "problems": problems, "ended": ended}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
