"""What a workflow has found: one row for each evaluation, read from the records. Knows nothing of how they were made."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.report.text import Column, Style, format_bytes, format_table, format_value
from orchestrator.store.artifacts import Record

RESULT_KINDS = ("evaluation", "table")
"""Kinds of artifacts whose metrics are results."""

MISSING = "-"
_KEY = "key of the artifact"  # no metric is called so
_LATENCY = re.compile(r"latency_ms_b([0-9]+)")


@dataclass(frozen=True)
class Result:
    """One evaluation: its label in the plan and its record."""

    label: str
    record: Record

    @property
    def values(self) -> Mapping[str, Any]:
        return {**self.record.metrics, **self.record.measurements, _KEY: self.record.key}


@dataclass(frozen=True)
class _Quantity:
    """One column: `priority` 0 is never left out for want of width; the largest goes first."""

    title: str
    show: Callable[[Mapping[str, Any]], str]
    priority: int = 0


def result_lines(results: Sequence[Result], *, style: Style, width: int | None) -> list[str]:
    """A table with a row for each result. Columns that no result fills, or that do not fit, are left out."""
    evaluations = [result for result in results if _number(result.values, "top1_accuracy") is not None]
    others = [result for result in results if result not in evaluations]
    lines: list[str] = []
    if evaluations:
        quantities = [q for q in _quantities(evaluations) if any(q.show(result.values) != MISSING for result in evaluations)]
        lines += _fitting_table(evaluations, quantities, style=style, width=width)
        lines += _legend(lines[0])
        lines += _notes(evaluations)
    if others:
        columns = [Column("RESULT"), Column("KEY"), Column("METRICS")]
        rows = [[result.label, result.record.key[:8], _all_metrics(result.values)] for result in others]
        lines += format_table(columns, rows, style=style, width=width)
    return lines


def _quantities(results: Iterable[Result]) -> list[_Quantity]:
    batches = sorted({int(match[1]) for result in results for name in result.values if (match := _LATENCY.fullmatch(name))})
    first = {batch: batch == batches[0] for batch in batches}
    return [
        _Quantity("TOP-1 %", _top1),
        _Quantity("NON-ZERO", _showing("num_nonzero_parameters", "{:,.0f}".format)),
        _Quantity("GMACS", _showing("gmacs", "{:.3g}".format), priority=4),
        _Quantity("FILE", _showing("size_bytes", format_bytes)),
        _Quantity("SIZE", _showing("size_ratio", "{:.2f}x".format), priority=3),
        *(_Quantity(f"MS B{n}", _showing(f"latency_ms_b{n}", "{:.3g}".format), priority=0 if first[n] else 5) for n in batches),
        *(
            _Quantity(f"SPEED B{n}", _showing(f"latency_ratio_b{n}", "{:.2f}x".format), priority=2 if first[n] else 6)
            for n in batches
        ),
        _Quantity("KEY", lambda values: str(values[_KEY])[:8], priority=1),
    ]


def _legend(header: str) -> list[str]:
    relative = " and ".join(title for title in ("SIZE", "SPEED") if title in header)
    return [f"      TOP-1 with its 95% interval{f'; {relative} against the baseline' if relative else ''}"]


def _notes(results: Sequence[Result]) -> list[str]:
    """A saving that is none, or that costs something else, is said as plainly as one that is."""
    compared = [result for result in results if "neither_smaller_nor_faster" in result.values]
    idle = [result.label for result in compared if result.values["neither_smaller_nor_faster"] is True]
    notes: list[str] = []
    if len(idle) == len(compared) > 1:
        notes.append(f"note  none of the {len(idle)} compared with a baseline is smaller or faster than it")
    elif idle:
        notes.append(f"note  neither smaller nor faster than the baseline: {', '.join(idle)}")
    trade_offs: dict[str, list[str]] = {}
    for result in compared:
        if "trade_off" in result.values:
            trade_offs.setdefault(str(result.values["trade_off"]), []).append(result.label)
    return notes + [f"note  {trade_off}: {', '.join(labels)}" for trade_off, labels in trade_offs.items()]


def _showing(name: str, form: Callable[[float], str]) -> Callable[[Mapping[str, Any]], str]:
    def show(values: Mapping[str, Any]) -> str:
        value = _number(values, name)
        return MISSING if value is None else form(value)

    return show


def _fitting_table(results: Sequence[Result], quantities: Sequence[_Quantity], *, style: Style, width: int | None) -> list[str]:
    shown = list(quantities)
    while True:
        rows = [[result.label, *(quantity.show(result.values) for quantity in shown)] for result in results]
        columns = [Column("RESULT"), *(Column(quantity.title, right=True) for quantity in shown)]
        widths = [max(len(column.title), *(len(row[index]) for row in rows)) for index, column in enumerate(columns)]
        least = max(shown, key=lambda quantity: quantity.priority)
        if width is None or sum(widths) + 2 * len(shown) <= width or least.priority == 0:
            return format_table(columns, rows, style=style, width=None)
        shown.remove(least)


def _top1(values: Mapping[str, Any]) -> str:
    """The accuracy in percent, with its interval where one was computed."""
    accuracy = _number(values, "top1_accuracy")
    low, high = _number(values, "top1_accuracy_low"), _number(values, "top1_accuracy_high")
    if accuracy is None:
        return MISSING
    interval = f" ({low * 100:.1f}-{high * 100:.1f})" if low is not None and high is not None else ""
    return f"{accuracy * 100:.2f}{interval}"


def _number(values: Mapping[str, Any], name: str) -> float | None:
    value = values.get(name)
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


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


def _all_metrics(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {format_value(value)}" for name, value in values.items() if name != _KEY)
