"""A world's time, machines and threads in the place of the real ones, and what its drivers do there."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import datetime, timedelta
from typing import Any

import pytest
from simulated import REAL, START, STEP_S, Driver, SimulatedStore, World

import stages.probe.sleep
from orchestrator import api
from orchestrator.engine import provenance
from orchestrator.engine.executors import inline
from orchestrator.store import claims, lease, ledger
from orchestrator.store.lease import Leases


@contextmanager
def in_world(world: World) -> Iterator[None]:
    """What the product knows of time, machines and threads is the world's, in the threads of its drivers."""

    def here() -> Driver | None:
        current = threading.current_thread()
        return current if isinstance(current, Driver) else None

    def monotonic() -> float:
        driver = here()
        return REAL[0]() if driver is None else world.now_s + 1000.0 * len(driver.host)

    def sleep(seconds: float) -> None:
        driver = here()
        (REAL[1] if driver is None else driver.sleep)(seconds)

    class Calendar(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            driver = here()
            return START + timedelta(seconds=world.now_s + (driver.skew_s if driver is not None else 0.0))

    def beat_with_the_driver(leases: Leases) -> None:
        driver = here()
        if driver is not None and leases not in driver.leases:
            driver.leases.append(leases)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", monotonic)
        patch.setattr(time, "sleep", sleep)
        patch.setitem(Leases.__init__.__kwdefaults__, "clock", monotonic)
        patch.setitem(claims.Claims.__init__.__kwdefaults__, "sleep", sleep)
        patch.setattr(Leases, "_beat_in_background", beat_with_the_driver)
        patch.setattr(lease, "host_identity", lambda: driver.host if (driver := here()) is not None else "onlooker")
        patch.setattr(ledger, "secrets", random.Random(world.random.random()))  # the order of runs in a listing
        patch.setattr(ledger, "datetime", Calendar)
        patch.setattr(claims, "datetime", Calendar)
        patch.setattr(inline, "_capture", lambda _log: nullcontext())
        patch.setattr(provenance, "_commit", lambda: ("", False))
        patch.setattr(stages.probe.sleep, "STEP_S", STEP_S)
        yield


def submission(text: str) -> Callable[[SimulatedStore], api.RunResult]:
    """What a driver does: plan and submit."""
    from orchestrator.workflow.check import check_workflow
    from orchestrator.workflow.load import load_text

    checked = check_workflow(load_text(text, file="w.yaml"))

    def submit(store: SimulatedStore) -> api.RunResult:
        workspace = api.Workspace(store)
        plan = api.plan_checked(checked, workspace=workspace)
        return api.submit(plan, workspace=workspace, executor=lambda run: inline.InlineExecutor(store, run=run))

    return submit
