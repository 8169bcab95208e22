"""The stage `probe.fail`: fails on purpose, in every attempt or in the first few, in each way a stage can fail."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from stages.contract import StageContext, StageResult, TrainingDiverged
from stages.probe.echo import write_value

EXIT_STATUS = 3


def fail(context: StageContext) -> StageResult:
    """Fail as `mode` says; after `failures` failed attempts write `value.json` as `probe.echo` does.

    Attempts are counted in the stage's saved states, so the count survives the process.

    Source: none: carries no method.
    """
    settings = context.settings
    latest = context.checkpoints.latest()
    failed = latest[0] if latest else 0
    if settings.failures is not None and failed >= settings.failures:
        return write_value(context, num_failures=failed)
    print(f"probe.fail: attempt {failed + 1}", flush=True)  # noqa: T201 - what a stage prints is its log
    context.checkpoints.save(failed + 1, _write_marker)
    _fail(settings.mode, attempt=failed + 1)
    raise AssertionError("a failing attempt came back")


def _fail(mode: str, *, attempt: int) -> None:
    if mode == "error":
        raise RuntimeError(f"probe.fail: attempt {attempt} fails on purpose")
    if mode == "diverge":
        raise TrainingDiverged(f"probe.fail: attempt {attempt} diverges on purpose")
    if mode == "memory":
        raise MemoryError(f"probe.fail: attempt {attempt} is out of memory on purpose")
    if mode == "exit":
        os._exit(EXIT_STATUS)
    if mode == "hang":
        while True:
            time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL if mode == "kill" else signal.SIGSEGV)
    time.sleep(60.0)  # the signal takes effect before this ends


def _write_marker(folder: Path) -> None:
    (folder / "state.json").write_text("{}\n", encoding="utf-8")
