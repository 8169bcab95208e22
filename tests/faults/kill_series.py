"""Kills a run at one point after the other and lets the next one finish it. A program of its own, without threads, because
it forks for every run: what is imported once is paid once.

    python kill_series.py FOLDER FIRST STEP LAST [half]      one kill, at effect FIRST, FIRST + STEP, ...
    python kill_series.py FOLDER double SEED COUNT           two kills in a row, at random effects

A point is a call that changes the disk, made by the store, by the saving of states, or by the worker's handling of folders.
Killing before each of them leaves every state of the disk that a kill can leave, save for half-done writes: these are made
with `half`. Prints one JSON object: the number of kills, and every broken promise.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import stages.contract
import stages.probe.blob
import stages.probe.echo
import stages.probe.sleep
from orchestrator import api
from orchestrator.engine import provenance
from orchestrator.report.run_status import read_run_status
from orchestrator.store import local
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
EFFECTS = {"open", "write", "fsync", "link", "replace", "unlink", "rename", "mkdir", "rmdir", "chmod", "fchmod"}


class Killer:
    """Counts effects, and kills this process before effect number `at` (or, of a write, in its middle)."""

    def __init__(self, at: int, *, half: bool) -> None:
        self.at = at
        self.half = half
        self.count = 0

    def wrapped(self, module: Any) -> Any:
        return _Counted(module, self)

    def call(self, name: str, real: Any, args: Any, kwargs: Any) -> Any:
        self.count += 1
        if self.count == self.at:
            if self.half and name == "write":
                real(args[0], args[1][: len(args[1]) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)


class _Counted:
    def __init__(self, module: Any, killer: Killer) -> None:
        self.__dict__.update(_module=module, _killer=killer)

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._module, name)
        if name not in EFFECTS:
            return real
        return lambda *args, **kwargs: self._killer.call(name, real, args, kwargs)


def submit(folder: Path) -> api.RunResult:
    workspace = api.open_workspace(str(folder))
    plan = api.plan_checked(check_workflow(load_text(WORKFLOW, file="w.yaml")), workspace=workspace)
    return api.submit(plan, workspace=workspace, executor="inline")


def in_child(action: Any) -> tuple[bool, Any]:
    """Run `action` in a fork: whether it lived to its end, and what it returned (as JSON)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        try:
            os.write(writer, json.dumps(action()).encode())
            status = 0
        except BaseException as error:
            os.write(writer, json.dumps({"raised": repr(error)}).encode())
            raise
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        data = file.read()
    _, status = os.waitpid(child, 0)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return not killed, json.loads(data) if data else None


def killed_at(folder: Path, point: int, *, half: bool = False) -> bool:
    """Submit, killed at the point; False if the run ended before it."""

    def action() -> str:
        killer = Killer(point, half=half)
        for module, name in ((local, "os"), (stages.contract, "os"), (pathlib, "os"), (pathlib, "io"), (shutil, "os")):
            setattr(module, name, killer.wrapped(io if name == "io" else os))
        return submit(folder).state.value

    lived, answer = in_child(action)
    if lived and answer != "done":
        raise RuntimeError(f"the run was not killed, and did not end well: {answer}")
    return not lived


def look(folder: Path) -> dict[str, Any]:
    """What can be seen after a kill: finished nodes, saved steps; and every record is read whole."""
    workspace = api.open_workspace(str(folder))
    problems, done = [], {}
    for stage in workspace.store.list("artifacts"):
        for key in workspace.store.list(f"artifacts/{stage}"):
            if workspace.store.read(f"artifacts/{stage}/{key}/record.json") is None:
                continue
            record = workspace.artifacts.find(stage, key)
            if record is None:
                problems.append(f"half a record can be seen: {stage} {key}")
            else:
                workspace.artifacts.open(record)
                done[record.label] = record.content_digest
    problems.extend(
        f"run {request.id} seems to be {state}"
        for request in workspace.ledger.runs()
        if (state := read_run_status(workspace.store, request.id).state) not in ("interrupted", "done")
    )
    steps = [int(path.name) for path in folder.glob("work/checkpoints/*/*") if path.name.isdigit()]
    return {"problems": problems, "done": done, "step": max(steps, default=0)}


def finish(folder: Path) -> dict[str, Any]:
    """Submit undisturbed, and look at everything."""
    result = submit(folder)
    workspace = api.open_workspace(str(folder))
    events, _ = workspace.ledger.events(result.run)
    records = {label: workspace.artifacts.find(node.stage, node.key) for label, node in result.status.nodes.items()}
    left = [str(path.relative_to(folder)) for place in ("objects", "attempts", "checkpoints")
            for path in (folder / "work" / place).glob("*")]  # fmt: skip
    return {
        "state": result.state.value,
        "digests": {label: record and record.content_digest for label, record in records.items()},
        "made": [event["node"] for event in events if event["type"] == "node_done" and event["ending"] == "done"],
        "resumed": records["s"].measurements["num_steps_resumed"] if records["s"] else None,
        "left": left,
        "leases": list(workspace.store.list("leases")),
    }


def check(folder: Path, reference: dict[str, Any], where: str) -> list[str]:
    """Look after the kill, finish, and compare with the undisturbed run."""
    _, answer = in_child(lambda: [look(folder), finish(folder)])
    if "raised" in answer:
        return [f"{where}: looking, or the next run, raised {answer['raised']}"]
    seen, end = answer
    problems = list(seen["problems"])
    if end["state"] != "done":
        problems.append(f"the next run ended {end['state']}")
    if end["digests"] != reference["digests"]:
        problems.append(f"other digests: {end['digests']}")
    problems += [f"{label} was finished and made again" for label in end["made"] if label in seen["done"]]
    if "s" in end["made"] and end["resumed"] < seen["step"]:
        problems.append(f"s began at step {end['resumed']} though step {seen['step']} was saved")
    problems += [f"left behind: {path}" for path in end["left"]]
    problems += [f"a lease is left: {name}" for name in end["leases"]]
    return [f"{where}: {problem}" for problem in problems]


def main(arguments: list[str]) -> dict[str, Any]:
    provenance._commit = lambda: ("", False)  # a git process per run says nothing here
    stages.probe.sleep.STEP_S, stages.probe.sleep.SAVE_EVERY_STEPS = 0.001, 2
    root = Path(arguments[0])
    _, reference = in_child(lambda: finish(root / "reference"))
    problems: list[str] = []
    num_kills = 0
    if arguments[1] == "double":
        generator = random.Random(int(arguments[2]))
        for number in range(int(arguments[3])):
            folder = root / str(number)
            points = [generator.randrange(1, 210), generator.randrange(1, 90)]
            for point in points:
                num_kills += killed_at(folder, point, half=generator.random() < 0.3)
            problems += check(folder, reference, f"killed at {points}")
            shutil.rmtree(folder)
        return {"kills": num_kills, "problems": problems}
    first, step, last = (int(argument) for argument in arguments[1:4])
    ended = False
    for point in range(first, last + 1, step):
        folder = root / str(point)
        killed = killed_at(folder, point, half="half" in arguments)
        num_kills += killed
        problems += check(folder, reference, f"killed at {point}")
        shutil.rmtree(folder)
        if not killed:
            ended = True
            break
    return {"kills": num_kills, "problems": problems, "ended": ended}


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
