"""What every folder of tests may use: a store in a temporary folder, plans and runs from YAML text, and forked racers."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from orchestrator import api
from orchestrator.engine.scheduler import RunOptions
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text
from orchestrator.workflow.plan import Plan, Selection

settings.register_profile("shared-cores", deadline=None)
settings.load_profile("shared-cores")

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # so a shell starts what it puts in the background, and children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

PlanText = Callable[..., Plan]
RunText = Callable[..., api.RunResult]


@pytest.fixture
def workspace(tmp_path: Path) -> api.Workspace:
    """An empty store."""
    return api.open_workspace(str(tmp_path / "store"))


@pytest.fixture
def folder() -> Iterator[Path]:
    """On a memory disk where there is one: for tests that write many small files, when no slow disk is what is tested."""
    memory = Path("/dev/shm")
    place = Path(tempfile.mkdtemp(prefix="orchestrator-test-", dir=memory if memory.is_dir() else None))
    yield place
    shutil.rmtree(place)


@pytest.fixture
def plan_text(workspace: api.Workspace) -> PlanText:
    """A plan from YAML text."""

    def plan(text: str, *, selection: Selection | None = None, overrides: Sequence[str] = ()) -> Plan:
        checked = check_workflow(load_text(textwrap.dedent(text), file="w.yaml", overrides=overrides))
        return api.plan_checked(checked, workspace=workspace, selection=selection)

    return plan


@pytest.fixture
def run_text(workspace: api.Workspace, plan_text: PlanText) -> RunText:
    """Plan YAML text and run it inline."""

    def run(
        text: str, *, options: RunOptions | None = None, watcher: api.Watcher | None = None, **planning: Any
    ) -> api.RunResult:
        return api.submit(plan_text(text, **planning), workspace=workspace, executor="inline", options=options, watcher=watcher)

    return run


def _race_one(barrier: Any, queue: Any, action: Callable[[int], Any], number: int) -> None:
    barrier.wait()
    queue.put(action(number))


@pytest.fixture
def race() -> Callable[[int, Callable[[int], Any]], list[Any]]:
    """Call `action(number)` in many forked processes at the same moment; returns what they returned."""

    def run(num_processes: int, action: Callable[[int], Any]) -> list[Any]:
        context = multiprocessing.get_context("fork")
        barrier, queue = context.Barrier(num_processes), context.Queue()
        processes = [context.Process(target=_race_one, args=(barrier, queue, action, i)) for i in range(num_processes)]
        for process in processes:
            process.start()
        results = [queue.get(timeout=60) for _ in processes]
        for process in processes:
            process.join(timeout=60)
        return results

    return run
