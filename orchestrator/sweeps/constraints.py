"""Whether a trial keeps to the constraints: met or not, how far off in words, and as a number that sorts. Knows no search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.workflow.sweep_spec import Constraint

MISSING = 1e9
"""Violation of a constraint whose metric is missing: farther off than any that was measured."""

_SLACK = 1e-9
"""Of the limit's size: 0.983 - 0.03 must not refuse 0.953 for the last bit of a sum."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One constraint held against one trial. `violation`: 0 where met, else the distance over the size of the limit."""

    metric: str
    is_met: bool
    text: str
    violation: float


@dataclass(frozen=True, kw_only=True)
class _Limit:
    value: float
    is_lowest: bool
    origin: str = ""


def judge(
    constraint: Constraint, metrics: Mapping[str, Any], *, baselines: Mapping[str, Any], directions: Mapping[str, str]
) -> Judgement:
    """Hold one constraint against a trial's metrics ("node.metric").

    Args:
        constraint: with any number of bounds; the worst decides.
        metrics: of the trial.
        baselines: of the nodes outside of the sweep that `versus` refers to.
        directions: the sweep's objectives; of a minimized metric a `max_drop` limits the rise.
    """
    name = constraint.metric
    value = number(metrics.get(name))
    if value is None:
        what = "is missing" if metrics.get(name) is None else f"is {metrics[name]}, which is no number to compare"
        return Judgement(metric=name, is_met=False, text=f"{name} {what}", violation=MISSING)
    try:
        limits = _limits(constraint, baselines=baselines, is_minimized=directions.get(name) == "minimize")
    except LookupError as error:
        return Judgement(metric=name, is_met=False, text=f"{name} {_short(value)} has {error.args[0]}", violation=MISSING)
    worst = max((_held(name, value, limit) for limit in limits), key=lambda judgement: judgement.violation, default=None)
    return worst or Judgement(metric=name, is_met=True, text=f"{name} {_short(value)} has no bound", violation=0.0)


def judge_all(
    constraints: Sequence[Constraint],
    metrics: Mapping[str, Any],
    *,
    baselines: Mapping[str, Any],
    directions: Mapping[str, str],
    static_only: bool = False,
) -> list[Judgement]:
    """Every constraint in the file's order; `static_only`: those that are decided from shapes, before anything has run."""
    return [
        judge(constraint, metrics, baselines=baselines, directions=directions)
        for constraint in constraints
        if constraint.check == "static" or not static_only
    ]


def number(value: Any) -> float | None:
    """The value as a finite number; None for what is missing, NaN, infinite or no number at all."""
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    return None


def _limits(constraint: Constraint, *, baselines: Mapping[str, Any], is_minimized: bool) -> list[_Limit]:
    limits = []
    if constraint.min is not None:
        limits.append(_Limit(value=constraint.min, is_lowest=True))
    if constraint.max is not None:
        limits.append(_Limit(value=constraint.max, is_lowest=False))
    if constraint.max_drop is not None or constraint.max_ratio is not None:
        base = number(baselines.get(constraint.versus))
        if base is None:
            raise LookupError(f"nothing to be compared with: {constraint.versus or 'versus'} is missing")
        outside, _, metric = constraint.versus.partition(".")
        origin = f"{outside if metric == constraint.metric.partition('.')[2] else constraint.versus} {_short(base)}"
        if constraint.max_drop is not None:
            sign = 1 if is_minimized else -1
            text = f"{origin} {'+' if is_minimized else '-'} {_short(constraint.max_drop)}"
            limits.append(_Limit(value=base + sign * constraint.max_drop, is_lowest=not is_minimized, origin=text))
        if constraint.max_ratio is not None:
            text = f"{origin} × {_short(constraint.max_ratio)}"
            limits.append(_Limit(value=base * constraint.max_ratio, is_lowest=False, origin=text))
    return limits


def _held(name: str, value: float, limit: _Limit) -> Judgement:
    size = abs(limit.value) or 1.0
    excess = limit.value - value if limit.is_lowest else value - limit.value
    is_met = excess <= _SLACK * size
    side, bound = ("below", "lowest") if limit.is_lowest else ("above", "highest")
    origin = f" ({limit.origin})" if limit.origin else ""
    if is_met:
        text = f"{name} {_short(value)} keeps to the {bound} allowed {_short(limit.value)}{origin}"
    else:
        text = f"{name} {_short(value)} is {_short(excess)} {side} the {bound} allowed {_short(limit.value)}{origin}"
    return Judgement(metric=name, is_met=is_met, text=text, violation=0.0 if is_met else min(excess / size, MISSING))


def _short(value: float) -> str:
    """Six digits at most: 0.012 and not 0.0120000000001; 4200000 and not 4.2e+06."""
    text = f"{value:.6g}"
    return text if "e" not in text else f"{value:.0f}" if abs(value) >= 1 else text
