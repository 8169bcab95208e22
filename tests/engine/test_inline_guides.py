"""Guides with the real inline executor: stages that run in the scheduler's own thread are stopped early and go on later."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from virtual import trial_nodes

from orchestrator import api
from orchestrator.engine.executors.inline import InlineExecutor
from orchestrator.engine.progress import EpochReport, EpochReports
from orchestrator.engine.scheduler import Event, Scheduler
from orchestrator.engine.units import GroupState, State
from orchestrator.report.run_status import read_run_status
from orchestrator.store.artifacts import checkpoint_workspace
from orchestrator.store.ledger import Ledger
from orchestrator.workflow.plan import Plan
from stages.contract import StageContext, StageResult

BASE = "version: 1\nname: w\nnodes:\n  base: {stage: probe.echo, params: {value: base}}\n"
NUM_EPOCHS = 40


def train(context: StageContext) -> StageResult:
    """Forty epochs of two steps, saved after each; `base` and `export` do nothing."""
    if not str(context.settings.value).startswith("train"):
        return StageResult()
    latest = context.checkpoints.latest()
    first = latest[0] if latest else 0
    for epoch in range(1, first + 1):
        context.report(step=2 * first, total=2 * NUM_EPOCHS, metrics={"accuracy": epoch / 100}, epoch=epoch)
    for epoch in range(first + 1, NUM_EPOCHS + 1):
        for step in (2 * epoch - 1, 2 * epoch):
            context.check_cancelled()
            context.report(step=step, total=2 * NUM_EPOCHS, metrics={"loss": 1.0})
        context.report(step=2 * epoch, total=2 * NUM_EPOCHS, metrics={"accuracy": epoch / 100}, epoch=epoch)
        context.checkpoints.save(epoch, lambda folder: (folder / "state").write_text(""))
    return StageResult(metrics={"accuracy": NUM_EPOCHS / 100}, measurements={"resumed_from": first})


class StoppingGuide:
    """Adds trials one after the other and abandons each after the epoch that it is given (None: never)."""

    def __init__(self, trials: list[tuple[str, list[Any], int | None]], reports: EpochReports) -> None:
        self.trials = trials
        self.reports = reports
        self.stop_after: dict[str, int | None] = {}
        self.seen: list[EpochReport] = []
        self.running: dict[str, str] = {}

    def advance(self, scheduler: Scheduler) -> bool:
        self.look(scheduler)
        for label, group in list(self.running.items()):
            if scheduler.group_state(group) is not GroupState.RUNNING:
                del self.running[label]
        if not self.running and self.trials:
            group, nodes, self.stop_after[group] = self.trials.pop(0)
            scheduler.add(nodes, group=group)
            self.running[nodes[0].label] = group
        return bool(self.running or self.trials)

    def look(self, scheduler: Scheduler) -> None:
        for report in self.reports.read({label: scheduler.folder_of(label) for label in self.running}):
            self.seen.append(report)
            group = self.running[report.label]
            if report.epoch == self.stop_after[group]:
                scheduler.abandon(group)


@pytest.fixture
def trial(plan_text) -> Callable[..., list[Any]]:
    def make(name: str, value: str = "") -> list[Any]:
        text = BASE + (
            f"  train: {{stage: probe.echo, params: {{value: train-{value or name}}}, inputs: {{inputs: base}}}}\n"
            f"  export: {{stage: probe.echo, params: {{value: {name}}}, inputs: {{inputs: train}}}}\n"
        )
        return trial_nodes(plan_text(text), name, outer={"base"})

    return make


@pytest.fixture
def search(plan_text, workspace, monkeypatch) -> Callable[..., tuple[State, Scheduler, StoppingGuide, str]]:
    """Drive trials under a StoppingGuide in a run of its own, with the events in the ledger."""
    monkeypatch.setattr("stages.probe.echo.echo", train)

    def run(*trials: Any, guide_class: type[StoppingGuide] = StoppingGuide) -> tuple[State, Scheduler, StoppingGuide, str]:
        plan: Plan = plan_text(BASE)
        rows = [[node.label, node.node, node.spec.name, node.key, node.status.value] for node in plan.nodes.values()]
        ledger = Ledger(workspace.store)
        name = ledger.begin({"workflow": "w", "file": "w.yaml", "plan": rows})
        guide = guide_class(list(trials), EpochReports(ledger, run=name))
        executor = InlineExecutor(workspace.store, run=name)
        leases = api.Leases(workspace.store, run=name)

        def emit(events: list[Event]) -> None:
            ledger.write(name, events)

        scheduler = Scheduler(
            plan, run=name, executor=executor, shapes=executor.start(), artifacts=workspace.artifacts, leases=leases,
            clock=time.monotonic, emit=emit, guide=guide,
        )  # fmt: skip
        try:
            return scheduler.drive(), scheduler, guide, name
        finally:
            executor.close()
            leases.close()

    return run


def test_a_trial_is_stopped_at_its_epoch_though_it_runs_in_the_schedulers_thread(search, trial, workspace) -> None:
    """Early stopping must save the same epochs inline as on Ray, or a search under a debugger is another search."""
    state, scheduler, guide, run = search(("t1", trial("t1"), 3), ("t2", trial("t2"), None))
    assert state is State.DONE
    assert (scheduler.group_state("t1"), scheduler.group_state("t2")) == (GroupState.CANCELLED, GroupState.DONE)
    seen = [report.epoch for report in guide.seen if report.label == "search/t1/train"]
    assert seen == [1, 2, 3], "it went on after the decision"
    assert [report.epoch for report in guide.seen if report.label == "search/t2/train"] == list(range(1, NUM_EPOCHS + 1))
    assert guide.seen[2] == EpochReport(label="search/t1/train", epoch=3, metrics={"accuracy": 0.03})
    key = scheduler.units["search/t1/train"].node.key
    assert (workspace.store.workspace(checkpoint_workspace(key), make=False) / f"{3:012d}").is_dir()
    told = {label: (node.state, node.group) for label, node in read_run_status(workspace.store, run).nodes.items()}
    assert told == {
        "base": ("done", ""),
        "search/t1/train": ("cancelled", "t1"),
        "search/t1/export": ("cancelled", "t1"),
        "search/t2/train": ("done", "t2"),
        "search/t2/export": ("done", "t2"),
    }


@pytest.mark.parametrize("name", ["t1", "t2"], ids=["the same trial", "another trial"])
def test_a_stopped_trial_that_is_asked_for_again_goes_on_from_its_checkpoint(search, trial, name: str) -> None:
    """HyperBand pauses trials; what was trained must not be trained again, and no epoch be missed or told twice."""
    _, scheduler, guide, _ = search(("t1", trial("t1", "same"), 30), (name, trial(name, "same"), None))
    label = f"search/{name}/train"
    assert scheduler.group_state(name) is GroupState.DONE
    assert scheduler.metrics_of(label)["resumed_from"] == 30
    assert [report.epoch for report in guide.seen if report.label == label] == list(range(1, NUM_EPOCHS + 1))


def test_a_later_run_goes_on_from_the_checkpoint_with_the_whole_history(search, trial) -> None:
    """A search that was killed and resumed judges a trial by all of its epochs."""
    search(("t1", trial("t1"), 30))
    _, scheduler, guide, _ = search(("t1", trial("t1"), None))
    assert scheduler.metrics_of("search/t1/train")["resumed_from"] == 30
    assert [report.epoch for report in guide.seen] == list(range(1, NUM_EPOCHS + 1))


def test_a_look_from_inside_a_stage_cannot_add_nodes(search, trial) -> None:
    """The scheduler is in the middle of its loop then; and a fault of the guide must not be told as one of the stage."""

    class Adding(StoppingGuide):
        def look(self, scheduler: Scheduler) -> None:
            if scheduler.running:
                scheduler.add([replace(node, label=node.label + "-b") for node in trial("t9")[:1]], group="t9")

    with pytest.raises(AssertionError, match="may only abandon"):
        search(("t1", trial("t1"), None), guide_class=Adding)


def test_epochs_are_never_dropped_and_each_is_read_once(workspace) -> None:
    """A small model does ten epochs in the time in which one line of progress is told; attempts repeat what they lost."""
    ledger = workspace.ledger
    reports = EpochReports(ledger, run="r")

    def write(node: str, epoch: int | None, attempt: int = 1) -> None:
        ledger.write_progress("r", node, attempt=attempt, step=1, total=9, metrics={"loss": float("nan")}, epoch=epoch)

    assert reports.read({"a": "a-1", "b": "b-1"}) == []
    for epoch in (None, 1, None, 2):
        write("a-1", epoch)
    write("b-1", 1)
    assert reports.read({"a": "a-1"}) == [EpochReport(label="a", epoch=epoch, metrics={"loss": None}) for epoch in (1, 2)]
    for epoch in (1, 2, 3):
        write("a-1", epoch, attempt=2)
    found = [(report.label, report.epoch) for report in reports.read({"a": "a-1", "b": "b-1"})]
    assert found == [("a", 3), ("b", 1)]
    assert reports.read({"a": "a-1", "b": "b-1"}) == []


def test_only_the_files_of_the_given_nodes_are_read(workspace, monkeypatch) -> None:
    """Sixty-four running nodes of a sweep of thousands, four times a second."""
    read: list[tuple[str, int]] = []
    whole = workspace.store.read_log

    def counting(path: str, *, offset: int = 0) -> bytes:
        read.append((Path(path).parent.name, offset))
        return bytes(whole(path, offset=offset))

    monkeypatch.setattr(workspace.store, "read_log", counting)
    for number in range(100):
        workspace.ledger.write_progress("r", f"n-{number}", attempt=1, step=1, total=9, metrics={}, epoch=1)
    reports = EpochReports(Ledger(workspace.store), run="r")
    folders = {str(number): f"n-{number}" for number in range(64)}
    assert len(reports.read(folders)) == 64
    assert reports.read(folders) == []
    assert len(read) == 128
    assert all(offset > 0 for _, offset in read[64:])
