"""What the plots of a report show: trials and evaluations by accuracy against compute, size and latency. Draws nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.report.found_sweeps import FoundSweep
from orchestrator.report.page.sources import finite
from orchestrator.report.result_table import Result
from orchestrator.report.trade_off_plot import MAX_PANELS, axis_of, limits_of
from orchestrator.report.trade_offs import trade_offs

_ACROSS = (r"gmacs", r"size_bytes", r"latency_ms_b[0-9]+")
"""Quantities that accuracy is drawn against beside the objectives, where the trials report them."""

_ACCURACY = "top1_accuracy"


def sweep_plot(found: FoundSweep) -> dict[str, Any] | None:
    """The trials of one sweep: axes, panels with limits and baselines, and the kind of each measured trial."""
    if not found.objectives:
        return None
    offs = trade_offs([found])
    front = {offs.points[index].trial.number for index in offs.front}
    kinds = {}
    for point in offs.points:
        number = point.trial.number
        kind = "best" if point.is_best else "front" if number in front else "dominated" if point.is_good else "off"
        kinds[number] = kind
    upright = next(iter(found.objectives))
    reported = {name for trial in found.trials for name, value in trial.metrics.items() if finite(value) is not None}
    across = [name for name in list(found.objectives)[1:] if name in reported]
    for pattern in _ACROSS:
        names = sorted(name for name in reported if re.fullmatch(rf"[^.]+\.{pattern}", name))
        if names and not any(re.fullmatch(rf"[^.]+\.{pattern}", name) for name in across):
            across.append(_nearest(names, upright))
    axes = {name: _axis(name, found.objectives.get(name)) for name in (upright, *across)}
    panels: list[dict[str, Any]] = [
        {"x": name, "y": upright, "limits": _limits(found, name, upright), "baselines": _baselines(found, name, upright)}
        for name in across[:MAX_PANELS]
    ]
    if not panels:  # of one objective its course over the trials
        limits = [limit for limit in _limits(found, upright, upright) if limit["axis"] == "y"]
        panels = [{"x": None, "y": upright, "limits": limits, "baselines": []}]
    return {"title": found.name, "y": upright, "axes": axes, "panels": panels, "kinds": kinds}


def results_plot(results: Sequence[Result]) -> dict[str, Any] | None:
    """The evaluations of a run beside each other; None where fewer than two of them report an accuracy."""
    measured = [result for result in results if finite(result.values.get(_ACCURACY)) is not None]
    if len(measured) < 2:
        return None
    reported = {name for result in measured for name, value in result.values.items() if finite(value) is not None}
    across = []
    for pattern in _ACROSS:
        names = sorted((name for name in reported if re.fullmatch(pattern, name)), key=lambda name: (len(name), name))
        across += names[:1]
    baselines = {key for result in measured for key in _input_keys(result, "baseline")}
    points = [
        {
            "label": result.label,
            "key": result.record.key,
            "is_baseline": bool(baselines & set(_input_keys(result, "model"))) and not _input_keys(result, "baseline"),
            "values": {name: finite(result.values.get(name)) for name in (_ACCURACY, *across)},
            "low": finite(result.values.get("top1_accuracy_low")),
            "high": finite(result.values.get("top1_accuracy_high")),
        }
        for result in measured
    ]
    axes = {name: _axis(f".{name}", None) | {"metric": name} for name in (_ACCURACY, *across)}
    return {"title": "evaluations", "y": _ACCURACY, "axes": axes, "panels": [{"x": name, "y": _ACCURACY} for name in across],
            "points": points}  # fmt: skip


def _axis(metric: str, direction: str | None) -> dict[str, Any]:
    axis = axis_of(metric)
    return {"metric": metric, "node": axis.node, "text": axis.text, "factor": axis.factor, "direction": direction}


def _nearest(names: Sequence[str], upright: str) -> str:
    """That of the node which the accuracy is of, where it reports it; else the last by name."""
    node = upright.partition(".")[0]
    return next((name for name in names if name.startswith(f"{node}.")), names[-1])


def _limits(found: FoundSweep, across: str, upright: str) -> list[dict[str, Any]]:
    return [
        {"axis": axis, "value": limit.value, "is_lowest": limit.is_lowest}
        for axis, metric in (("x", across), ("y", upright))
        for limit in dict.fromkeys(limits_of(found, metric))
    ]


def _baselines(found: FoundSweep, across: str, upright: str) -> list[dict[str, Any]]:
    """Nodes outside of the sweep that report the same two quantities: what the trials are held against."""
    names = [metric.partition(".")[2] for metric in (across, upright)]
    baselines = []
    for node in dict.fromkeys(name.rpartition(".")[0] for name in found.baselines):
        x, y = (finite(found.baselines.get(f"{node}.{name}")) for name in names)
        if x is not None and y is not None:
            baselines.append({"label": node, "x": x, "y": y})
    return baselines


def _input_keys(result: Result, port: str) -> list[str]:
    inputs: Mapping[str, Any] = result.record.identity.get("inputs", {})
    value = inputs.get(port, ())
    return [value] if isinstance(value, str) else list(value)
