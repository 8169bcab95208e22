"""The table of results: what was measured, at any width, without inventing what was not."""

from __future__ import annotations

from typing import Any

from orchestrator.report.result_table import Result, result_lines
from orchestrator.report.text import Style
from orchestrator.store.artifacts import Record

DENSE = {
    "top1_accuracy": 0.98, "top1_accuracy_low": 0.9625, "top1_accuracy_high": 0.9894, "num_nonzero_parameters": 136138,
    "gmacs": 0.00238, "size_bytes": 558_592,
}  # fmt: skip
SPARSE = {**DENSE, "top1_accuracy": 0.9711, "num_nonzero_parameters": 70602, "size_ratio": 0.5, "gmacs_ratio": 1.0}
TIMES = {"latency_ms_b1": 0.1141, "latency_ms_b64": 3.27, "latency_ratio_b1": 1.004, "latency_ratio_b64": 1.2}


def result(label: str, metrics: dict[str, Any], measurements: dict[str, Any] | None = None) -> Result:
    return Result(
        label,
        Record(
            key="0123456789abcdef" * 2, stage="evaluate.classifier", kind="evaluation", identity={}, files={}, metrics=metrics,
            measurements=measurements or {}, content_digest="", input_digests={}, source_digest="", label=label, run="r",
            attempt=1, finished="", seconds=0.0,
        ),
    )  # fmt: skip


def test_missing_values_are_dashes_and_nothing_is_invented() -> None:
    lines = result_lines([result("dense", DENSE), result("sparse[n_m=2:4]", SPARSE, TIMES)], style=Style(), width=None)
    assert lines[0].split() == [
        "RESULT", "TOP-1", "%", "NON-ZERO", "GMACS", "FILE", "SIZE", "MS", "B1", "MS", "B64", "SPEED", "B1", "SPEED", "B64",
        "KEY",
    ]  # fmt: skip
    assert lines[1].split() == [
        "dense", "98.00", "(96.2-98.9)", "136,138", "0.00238", "545.5", "KiB", "-", "-", "-", "-", "-", "01234567",
    ]  # fmt: skip
    assert lines[2].split()[-6:] == ["0.50x", "0.114", "3.27", "1.00x", "1.20x", "01234567"]


def test_columns_that_nobody_fills_are_left_out() -> None:
    assert result_lines([result("a", {"top1_accuracy": 0.5})], style=Style(), width=None)[0].split() == [
        "RESULT", "TOP-1", "%", "KEY",
    ]  # fmt: skip


def test_a_narrow_terminal_keeps_accuracy_size_and_latency() -> None:
    lines = result_lines([result("finetune[model=lbc,n_m=2:4]", SPARSE, TIMES)], style=Style(), width=80)
    assert max(len(line) for line in lines) <= 80
    for title in ("TOP-1 %", "NON-ZERO", "FILE", "MS B1"):
        assert title in lines[0]


def test_a_saving_that_is_none_is_said() -> None:
    lines = result_lines([result("a", SPARSE, {"neither_smaller_nor_faster": True})], style=Style(), width=None)
    assert lines[-1] == "note  neither smaller nor faster than the baseline: a"


def test_a_saving_with_a_price_is_said_with_its_price() -> None:
    slower, larger = "smaller, slower (slower at batch size 1)", "faster, larger (faster at batch size 64)"
    marks = {"a": slower, "b": larger, "c": slower}
    results = [result(name, SPARSE, {"neither_smaller_nor_faster": False, "trade_off": mark}) for name, mark in marks.items()]
    idle = result("d", SPARSE, {"neither_smaller_nor_faster": True})
    lines = result_lines([*results, idle, result("e", SPARSE)], style=Style(), width=None)
    assert lines[-3:] == [
        "note  neither smaller nor faster than the baseline: d",
        f"note  {slower}: a, c",
        f"note  {larger}: b",
    ]


def test_other_tables_show_their_metrics() -> None:
    lines = result_lines([result("compare", {"num_rows": 5, "best_label": "x"})], style=Style(), width=None)
    assert lines[1] == "compare  01234567  num_rows 5, best_label x"


def test_no_results_make_no_table() -> None:
    assert result_lines([], style=Style(), width=None) == []
