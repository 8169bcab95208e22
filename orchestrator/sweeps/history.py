"""The trials as a table in Parquet: a row per trial, metric and step, for pandas, DuckDB, plots. The only user of pyarrow."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orchestrator.sweeps.constraints import number
from orchestrator.workflow.sweep_result import TrialRecord

PARAMETER = "param:"
"""Before the name of a searched parameter: the column "param:lbc.removal_start"."""


def write_history(path: Path, trials: Sequence[TrialRecord], *, stopping_metric: str = "") -> None:
    """Write all numbers that the trials reported.

    Columns: trial, node, metric, step (null: at the end), value, state, parent, seconds and key of the node, and one column
    per searched parameter, null where it was not active. A trial that reported nothing has one row without a metric. What a
    trial reported on the way has `stopping_metric` for its name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parameters = list(dict.fromkeys(name for trial in trials for name in trial.values))
    texts = {name: _needs_text([trial.values[name] for trial in trials if name in trial.values]) for name in parameters}
    rows = [
        {**row, **{PARAMETER + name: _cell(trial.values.get(name), is_text=texts[name]) for name in parameters}}
        for trial in trials
        for row in _rows(trial, stopping_metric)
    ]
    fixed = pa.schema(
        [
            ("trial", pa.int64()), ("node", pa.string()), ("metric", pa.string()), ("step", pa.int64()),
            ("value", pa.float64()), ("state", pa.string()), ("parent", pa.int64()), ("seconds", pa.float64()),
            ("key", pa.string()),
        ]
    )  # fmt: skip
    names = [*fixed.names, *(PARAMETER + name for name in parameters)]
    columns = [
        pa.array([row[name] for row in rows], type=fixed.field(name).type if name in fixed.names else None) for name in names
    ]
    pq.write_table(pa.table(dict(zip(names, columns, strict=True))), path)


def read_history(path: Path) -> list[dict[str, Any]]:
    """The rows of a written table, in its order."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def _rows(trial: TrialRecord, stopping_metric: str) -> Iterator[dict[str, Any]]:
    figures: list[tuple[str, int | None, float | None]] = [
        (stopping_metric, step, None if math.isnan(value) else value) for step, value in trial.history
    ]
    figures += [(name, None, number(value)) for name, value in trial.metrics.items() if number(value) is not None]
    for name, step, value in figures or [("", None, None)]:
        node, _, metric = name.partition(".")
        key = trial.keys.get(node)
        yield {
            "trial": trial.number, "node": node or None, "metric": metric or None, "step": step, "value": value,
            "state": trial.state, "parent": trial.parent, "seconds": trial.seconds.get(key) if key else None, "key": key,
        }  # fmt: skip


def _needs_text(values: Sequence[Any]) -> bool:
    """Whether a column's values have no common type: then they stand there as JSON."""
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return False
    return not (all(isinstance(value, bool) for value in values) or all(isinstance(value, str) for value in values))


def _cell(value: Any, *, is_text: bool) -> Any:
    return json.dumps(value, sort_keys=True) if is_text and value is not None else value
