"""Searches on a machine in virtual time: trials that train for six seconds, report each, save it, fail, and share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from virtual import Attempt, VirtualMachine, drive

from orchestrator import api
from orchestrator.engine.executors.base import MachineShape
from orchestrator.engine.scheduler import RunOptions
from orchestrator.engine.units import State
from orchestrator.engine.work import Ending
from orchestrator.sweeps.driver import RunContext, SweepGuide
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text
from orchestrator.workflow.planning import make_plan
from sweeps.search_kit import NUM_EPOCHS

MOST_TURNS = 40_000


class Trainers(VirtualMachine):
    """`probe.sleep` trains: an epoch a second, each reported and saved; texts among the values make it fail."""

    def __init__(self, workspace: api.Workspace, *, slots: int, seconds: Callable[[str], float] = lambda _key: 0.5) -> None:
        super().__init__(shapes=(MachineShape(cpus=slots),))
        self.ledger = workspace.ledger
        self.seconds = seconds
        self.saved: dict[str, int] = {}
        self.reported: dict[str, int] = {}
        self.trials_at_once = 0

    def submit(self, work: Any, resources: Any) -> None:
        self.script[work.label] = [self._attempt(work)]
        super().submit(work, resources)
        running = {label.split("/")[1] for label in self._running if label.startswith("search/") and ".s" not in label}
        self.trials_at_once = max(self.trials_at_once, len(running))

    def poll(self, timeout_s: float, *, meanwhile: Any) -> Any:
        assert self.num_turns < MOST_TURNS, "the search hangs"
        ended = super().poll(timeout_s, meanwhile=meanwhile)
        for running in list(self._running.values()):
            self._report(running.work, self.now_s - running.began_s)
        return ended

    def _attempt(self, work: Any) -> Attempt:
        value = work.settings.get("value")
        if work.stage != "probe.sleep":
            return Attempt(self.seconds(work.key), metrics={"value": value, "num_inputs": 1})
        if isinstance(value, str):
            return Attempt(self.seconds(work.key), Ending.FAILED, error_type=value)
        self.reported.pop(work.label, None)
        return Attempt(NUM_EPOCHS - self.saved.get(work.key, 0) + 0.01, metrics={"value": value})

    def _finish(self, label: str) -> Any:
        work, elapsed_s = self._running[label].work, self.now_s - self._running[label].began_s
        self._report(work, elapsed_s)
        if work.stage == "probe.sleep":
            self.saved[work.key] = self._epoch(work, elapsed_s)
        return super()._finish(label)

    def _epoch(self, work: Any, elapsed_s: float) -> int:
        return min(NUM_EPOCHS, self.saved.get(work.key, 0) + int(elapsed_s + 1e-6))

    def _report(self, work: Any, elapsed_s: float) -> None:
        value = work.settings.get("value")
        if work.stage != "probe.sleep" or isinstance(value, str) or work.key in self.done:
            return
        for epoch in range(self.reported.get(work.label, 0) + 1, self._epoch(work, elapsed_s) + 1):
            figures = {"value": value * (1 - 0.5**epoch)}
            self.ledger.write_progress(work.run, work.folder, attempt=1, step=epoch, total=6, metrics=figures, epoch=epoch)
            self.reported[work.label] = epoch


def search_virtually(
    text: str,
    folder: Path,
    *,
    slots: int = 4,
    machine: Trainers | None = None,
    seconds: Callable[[str], float] = lambda _key: 0.5,
    cancel_after_s: float = float("inf"),
    options: RunOptions | None = None,
    given_up: tuple[float, str] | None = None,
) -> tuple[State, Trainers, SweepGuide]:
    """Drive a workflow with its searches to the end, or until it is stopped at some second of the machine's time."""
    workspace = api.open_workspace(str(folder))
    machine = machine or Trainers(workspace, slots=slots, seconds=seconds)
    machine.events.clear()
    checked = check_workflow(load_text(text, file="w.yaml"))
    plan = make_plan(checked, workspace.artifacts)
    context = RunContext(run="run", artifacts=workspace.artifacts, ledger=workspace.ledger, clock=machine, provenance={})
    guide = SweepGuide(plan, context=context, replan=lambda results: make_plan(checked, workspace.artifacts, results=results))
    state, _ = drive(
        plan,
        machine,
        guide=guide,
        options=options or RunOptions(),
        is_cancel_asked=lambda: machine.now_s >= cancel_after_s,
        cancels_asked=lambda: [given_up[1]] if given_up is not None and machine.now_s >= given_up[0] else (),
    )
    return state, machine, guide


def ended_trials(machine: Trainers) -> list[int]:
    return [event["number"] for event in machine.events if event["type"] == "trial_ended"]


def started_trials(machine: Trainers) -> list[int]:
    return [event["number"] for event in machine.events if event["type"] == "trial_started"]


def plain(trial: Any) -> Mapping[str, Any]:
    return replace(trial, seconds={}).to_data()
