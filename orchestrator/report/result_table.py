"""What a workflow has found: one row for each evaluation, read from the records. Knows nothing of how they were made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.report.text import Column, Style, format_bytes, format_count, format_table, format_value
from orchestrator.store.artifacts import Record

RESULT_KINDS = ("evaluation", "table")
"""Kinds of artifacts whose metrics are results."""

MISSING = "-"


@dataclass(frozen=True)
class Result:
    """One evaluation: its label in the plan and its record."""

    label: str
    record: Record

    @property
    def values(self) -> Mapping[str, Any]:
        return {**self.record.metrics, **self.record.measurements}


@dataclass(frozen=True)
class _Quantity:
    title: str
    names: Sequence[str]
    show: Callable[[Any], str]


def _percent(value: float) -> str:
    return f"{value * 100:.2f}%"


def _ratio(value: float) -> str:
    return f"{value:.3g}x"


_QUANTITIES = (
    _Quantity("TOP-1", ("top1_accuracy",), _percent),
    _Quantity("NON-ZERO", ("num_nonzero_parameters", "num_nonzero"), format_count),
    _Quantity("GMACS", ("gmacs",), lambda value: f"{value:.4g}"),
    _Quantity("FILE", ("file_size_bytes", "exported_size_bytes", "size_bytes"), format_bytes),
    _Quantity("LATENCY B1", ("latency_ms_b1", "latency_ms"), lambda value: f"{value:.3g} ms"),
    _Quantity("VS BASE", ("latency_ratio", "size_ratio"), _ratio),
)


def result_lines(results: Sequence[Result], *, style: Style, width: int | None) -> list[str]:
    """A table with a row for each result; columns that no result fills are left out. Empty without results."""
    evaluations = [result for result in results if _find(result.values, ("top1_accuracy",)) is not None]
    others = [result for result in results if result not in evaluations]
    lines: list[str] = []
    if evaluations:
        shown = [quantity for quantity in _QUANTITIES if any(_cell(quantity, result) != MISSING for result in evaluations)]
        columns = [Column("RESULT"), *(Column(quantity.title, right=True) for quantity in shown), Column("KEY")]
        rows = [
            [result.label, *(_cell(quantity, result) for quantity in shown), result.record.key[:8]] for result in evaluations
        ]
        lines += format_table(columns, rows, style=style, width=width)
    if others:
        columns = [Column("RESULT"), Column("KEY"), Column("METRICS")]
        rows = [[result.label, result.record.key[:8], _all_metrics(result.values)] for result in others]
        lines += format_table(columns, rows, style=style, width=width)
    return lines


def result_documents(results: Iterable[Result]) -> list[dict[str, Any]]:
    """The same as data, with every metric."""
    return [
        {
            "label": result.label,
            "stage": result.record.stage,
            "key": result.record.key,
            "metrics": dict(result.record.metrics),
            "measurements": dict(result.record.measurements),
        }
        for result in results
    ]


def _cell(quantity: _Quantity, result: Result) -> str:
    value = _find(result.values, quantity.names)
    return MISSING if value is None else quantity.show(value)


def _find(values: Mapping[str, Any], names: Sequence[str]) -> float | None:
    for name in names:
        value = values.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return value
    return None


def _all_metrics(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {format_value(value)}" for name, value in values.items())
