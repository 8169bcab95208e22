"""Trials as comma-separated text: a row for each, for spreadsheets and pandas. Knows no sweep's rule."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from orchestrator.report.found_sweeps import FoundSweep
from orchestrator.report.sweep_table import mark
from orchestrator.workflow.sweep_result import TrialRecord

PARAMETER = "param:"
"""Before a searched parameter's name, as in a sweep's trials.parquet."""


def csv_text(rows: Sequence[tuple[FoundSweep, TrialRecord]], *, extra: Mapping[str, Sequence[Any]] | None = None) -> str:
    """Run, sweep, trial, state, mark, what is `extra`, every searched parameter, every metric that is a number or a word."""
    extra = extra or {}
    parameters = list(dict.fromkeys(name for _, trial in rows for name in trial.values))
    objectives = dict.fromkeys(name for found, _ in rows for name in found.objectives)
    metrics = list(dict.fromkeys([*objectives, *(name for _, trial in rows for name in sorted(trial.metrics))]))
    header = ["run", "sweep", "trial", "label", "state", "mark", *extra]
    lines = [[*header, *(PARAMETER + name for name in parameters), *metrics, "violated", "error"]]
    for index, (found, trial) in enumerate(rows):
        lines.append([
            found.run, found.name, str(trial.number), found.label(trial.number), trial.state, mark(found, trial.number),
            *(_cell(column[index]) for column in extra.values()),
            *(_cell(trial.values.get(name)) for name in parameters),
            *(_cell(trial.metrics.get(name)) for name in metrics),
            "; ".join(trial.violated), " ".join(trial.error.split()),
        ])  # fmt: skip
    return _written(lines)


def _written(lines: Iterable[Sequence[str]]) -> str:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True) if not isinstance(value, float) else repr(value)
