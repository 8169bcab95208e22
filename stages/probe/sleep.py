"""The stage `probe.sleep`: waits in small steps, so that it can be watched, stopped and continued."""

from __future__ import annotations

import json
import time
from pathlib import Path

from stages.contract import Cancelled, StageContext, StageResult
from stages.probe.echo import write_value

STEP_S = 0.05
SAVE_EVERY_STEPS = 20


def sleep(context: StageContext) -> StageResult:
    """Wait for `seconds`, saving about once a second how much is done; then write `value.json` as `probe.echo` does.

    Source: none: carries no method.
    """
    total = max(1, round(context.settings.seconds / STEP_S))
    latest = context.checkpoints.latest()
    first = latest[0] if latest else 0
    for step in range(first, total):
        try:
            context.check_cancelled()
        except Cancelled:
            if step:
                context.checkpoints.save(step, _write_nothing)
            raise
        time.sleep(context.settings.seconds / total)
        context.report(step=step + 1, total=total, metrics={"waited_s": (step + 1) * context.settings.seconds / total})
        if (step + 1) % SAVE_EVERY_STEPS == 0 and step + 1 < total:
            context.checkpoints.save(step + 1, _write_nothing)
    result = write_value(context)
    return StageResult(metrics=result.metrics, measurements={"num_steps_resumed": first})


def _write_nothing(folder: Path) -> None:
    """The step's number is the whole state; the file says so to whoever looks."""
    (folder / "state.json").write_text(json.dumps({}), encoding="utf-8")
