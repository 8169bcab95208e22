"""Nominal, stored and measured figures of each evaluation, kept apart: one row each, and whether an exported file agrees."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from orchestrator.report.page.sources import finite

NOMINAL = ("num_parameters", "num_nonzero_parameters", "gmacs", "gmacs_effective", "bops")
STORED = ("size_bytes", "size_ratio", "gzip_size_bytes")
_MEASURED = re.compile(r"(latency_ms|latency_ratio)(_b[0-9]+)?")
_PARITY = ("max_abs_difference", "agreement", "num_violating_blocks", "top1_accuracy")


def truth_rows(document: Mapping[str, Any]) -> dict[str, Any]:
    """Columns that any evaluation fills, and the rows; exported files with what their own check found."""
    rows = [row for row in document["results"]["rows"] if finite(row["metrics"].get("top1_accuracy")) is not None]
    values = [{**row["metrics"], **row["measurements"]} for row in rows]
    known = dict.fromkeys(name for each in values for name in each)
    latencies = sorted((name for name in known if _MEASURED.fullmatch(name)), key=_by_batch)
    groups = {
        "nominal": [name for name in NOMINAL if name in known],
        "stored": [name for name in STORED if name in known],
        "measured": latencies,
    }
    checked = [
        {"label": each["label"], "kind": each["kind"], "key": each["key"],
         "figures": {name: each["metrics"][name] for name in _PARITY if name in each["metrics"]}}
        for each in document["lineage"]
        if "max_abs_difference" in each["metrics"] or "agreement" in each["metrics"]
    ]  # fmt: skip
    return {
        "groups": {name: columns for name, columns in groups.items() if columns},
        "rows": [
            {
                "label": row["label"], "key": row["key"], "accuracy": each["top1_accuracy"],
                "low": finite(each.get("top1_accuracy_low")), "high": finite(each.get("top1_accuracy_high")),
                "cells": {name: each.get(name) for columns in groups.values() for name in columns},
                "trade_off": each.get("trade_off", ""), "is_idle": each.get("neither_smaller_nor_faster") is True,
            }
            for row, each in zip(rows, values, strict=True)
        ],
        "checked": checked,
    }  # fmt: skip


def _by_batch(name: str) -> tuple[str, int]:
    kind, _, batch = name.rpartition("_b")
    return (kind, int(batch)) if batch.isdigit() else (name, 0)
