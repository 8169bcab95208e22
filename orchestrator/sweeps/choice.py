"""Which trial is best, by the sweep's rule and constraints, and how sure that is. Pure: trials in, SweepResult out.

Finalists are judged on their further seeds alone: the workflow's own seed has chosen them, so its figures flatter the winner.
Intervals are 95 % by Student's t; differences to the winner are paired by seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from orchestrator.sweeps import pareto
from orchestrator.sweeps.constraints import number
from orchestrator.sweeps.cost import cost
from orchestrator.sweeps.scores import Scores
from orchestrator.workflow.sweep_result import SweepResult, TrialRecord
from orchestrator.workflow.sweep_spec import Selection, Sweep
from orchestrator.workflow.trials import trial_name

CONFIDENCE = 0.95
FEW = 5
"""Seeds below which equal differences are taken for chance: on a test split of hundreds, one image more or less is likely."""

Metrics = Mapping[str, Any]
Repeats = Mapping[int, Sequence[Metrics]]

_SLACK = 1e-9
"""Of the tolerance: two figures that differ by exactly the tolerance, but for the last bit, are within it."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and half the width of its 95 % interval, None where a single figure gives none."""

    mean: float
    half_width: float | None
    count: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the mean is told from 0. A few figures that happen to be equal say nothing of how much they vary."""
        if self.half_width is None or (self.half_width <= _SLACK and self.count < FEW):
            return False
        return abs(self.mean) > self.half_width

    def __str__(self) -> str:
        return f"{self.mean:.5g}" if self.half_width is None else f"{self.mean:.5g} ± {self.half_width:.2g}"


def interval(figures: Sequence[float]) -> Interval:
    """Mean of the figures and its interval: t * s / sqrt(n), t of n - 1 degrees of freedom."""
    if len(figures) < 2:
        return Interval(mean=fmean(figures), half_width=None, count=len(figures))
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    quantile = float(stdtrit(len(figures) - 1, (1 + CONFIDENCE) / 2))
    return Interval(mean=fmean(figures), half_width=quantile * stdev(figures) / math.sqrt(len(figures)), count=len(figures))


def finalists(sweep: Sweep, trials: Sequence[TrialRecord], *, baselines: Mapping[str, Any]) -> list[int]:
    """Numbers of the trials to repeat with further seeds, the best by the sweep's rule first; none where none is asked for."""
    if sweep.finalists is None:
        return []
    scores = Scores(sweep, baselines)
    return _ranking(sweep.select, _eligible(trials, scores), scores)[: sweep.finalists.top]


def choose(
    sweep: Sweep,
    trials: Sequence[TrialRecord],
    *,
    baselines: Mapping[str, Any],
    repeats: Repeats | None = None,
    found: Mapping[str, float] | None = None,
) -> SweepResult:
    """The result of a finished search.

    Args:
        sweep: its rule, constraints and objectives.
        trials: all that ended.
        baselines: "node.metric" of the nodes outside that constraints refer to.
        repeats: by finalist's number: metrics of each further seed in the order of the seeds, {} for one that failed.
        found: seconds of nodes that were in the store before the search, by key.
    """
    scores = Scores(sweep, baselines)
    trials = sorted((_judged(trial, scores) for trial in trials), key=lambda trial: trial.number)
    eligible = _eligible(trials, scores)
    points = {trial: scores.objectives(metrics) or () for trial, metrics in eligible.items()}
    members = pareto.front(list(points.values()), directions=list(scores.directions.values()))
    repeats = {trial: tuple(figures) for trial, figures in (repeats or {}).items() if any(figures)}
    ties: list[int] = []
    if not eligible:
        best, verdict = None, _none_meets(trials, scores)
    elif not repeats:
        best = _ranking(sweep.select, eligible, scores)[0]
        verdict = f"{_named(best, eligible[best], sweep)}. Of one seed: no interval can be given."
    else:
        best, ties, verdict = _among_finalists(sweep, repeats, scores)
    spent = cost(trials, found=found)
    return SweepResult(
        trials=tuple(trials),
        front=tuple(list(points)[index] for index in members),
        best=best,
        verdict=verdict,
        rule=_rule_text(sweep),
        objectives=dict(sweep.objectives),
        ties=tuple(ties),
        repeats=repeats,
        spent_s=spent.spent_s,
        avoided_s=spent.avoided_s,
    )


def _judged(trial: TrialRecord, scores: Scores) -> TrialRecord:
    return replace(trial, violated=scores.violated(trial.metrics)) if trial.state == "done" else trial


def _eligible(trials: Sequence[TrialRecord], scores: Scores) -> dict[int, Metrics]:
    """Metrics of the trials that were measured and meet the constraints."""
    return {
        trial.number: trial.metrics
        for trial in sorted(trials, key=lambda trial: trial.number)
        if trial.state == "done" and scores.objectives(trial.metrics) is not None and not scores.violated(trial.metrics)
    }


def _ranking(select: Selection, eligible: Mapping[int, Metrics], scores: Scores) -> list[int]:
    """All that are eligible, best first by the rule; of equal ones the lower number."""
    directions = list(scores.directions.values())
    points = {trial: scores.objectives(metrics) or () for trial, metrics in eligible.items()}
    first = {trial: _turned(point[0], directions[0]) for trial, point in points.items()}
    match select.rule:
        case "best":
            metric = select.metric or next(iter(scores.directions))
            places = {trial: (_less(eligible[trial], metric, scores.directions.get(metric)), first[trial]) for trial in points}
        case "knee":
            ranks = dict(zip(points, pareto.ranks(list(points.values()), directions=directions), strict=True))
            members = [points[trial] for trial in points if ranks[trial] == 0]
            places = {
                trial: (ranks[trial] or 0, pareto.distance_to_ideal(points[trial], members, directions=directions))
                for trial in points
            }
        case "smallest_within":
            limit = min(first.values(), default=0.0) + select.tolerance
            limit += _SLACK * max(1.0, abs(limit))
            places = {
                trial: (0.0, _less(eligible[trial], select.metric, "minimize"))
                if first[trial] <= limit
                else (1.0, first[trial])
                for trial in points
            }
    return sorted(points, key=lambda trial: (places[trial], first[trial], trial))


def _less(metrics: Metrics, metric: str, direction: str | None) -> float:
    """The metric turned so that less is better; what is missing comes last."""
    assert direction is not None, f"{metric} is no objective: which of two is better is not known"
    value = number(metrics.get(metric))
    return math.inf if value is None else _turned(value, direction)


def _turned(value: float, direction: str) -> float:
    return -value if direction == "maximize" else value


def _among_finalists(sweep: Sweep, repeats: Repeats, scores: Scores) -> tuple[int | None, list[int], str]:
    means = {trial: _means(figures) for trial, figures in repeats.items()}
    violated = {trial: scores.violated(metrics) for trial, metrics in means.items()}
    kept = {
        trial: means[trial] for trial in sorted(means) if not violated[trial] and scores.objectives(means[trial]) is not None
    }
    passed_over = [f"{trial_name(trial)}: {'; '.join(found)}" for trial, found in sorted(violated.items()) if found]
    if not kept:
        why = ". ".join(passed_over) or "their repeats were not measured"
        return None, [], f"No finalist meets the constraints over further seeds. {why}."
    ranking = _ranking(sweep.select, kept, scores)
    best, others = ranking[0], ranking[1:]
    metric = _leading(sweep)
    own = interval([value for value in _column(repeats[best], metric) if value is not None])
    sentences = [_named(best, {**means[best], metric: own}, sweep)]
    if own.half_width is None:
        sentences.append("The mean is of one further seed: no interval can be given, and the finalists are not told apart")
        return best, others, ". ".join([*sentences, *_passed(passed_over)]) + "."
    sentences[0] += f", mean of {own.count} further seeds with its {CONFIDENCE:.0%} interval"
    ties, clear = [], []
    for other in others:
        difference = _difference(_column(repeats[other], metric), _column(repeats[best], metric))
        if difference is None or not difference.excludes_zero:
            ties.append((other, difference))
        else:
            clear.append((other, difference))
    for what, found in (("Not told apart from it", ties), ("Told apart", clear)):
        if found:
            sentences.append(
                f"{what}: " + ", ".join(f"{trial_name(trial)} (difference {d or 'unknown'})" for trial, d in found)
            )
    return best, [trial for trial, _ in ties], ". ".join([*sentences, *_passed(passed_over)]) + "."


def _passed(passed_over: Sequence[str]) -> list[str]:
    return [f"Passed over for the constraints: {' / '.join(passed_over)}"] if passed_over else []


def _means(figures: Sequence[Metrics]) -> dict[str, float]:
    """Each metric's mean over the seeds that report it."""
    columns = {name: _column(figures, name) for found in figures for name in found}
    known = {name: [value for value in column if value is not None] for name, column in columns.items()}
    return {name: fmean(values) for name, values in known.items() if values}


def _column(figures: Sequence[Metrics], metric: str) -> list[float | None]:
    return [number(found.get(metric)) for found in figures]


def _difference(one: Sequence[float | None], other: Sequence[float | None]) -> Interval | None:
    """Seed by seed: what the seeds have in common drops out."""
    pairs = [(left, right) for left, right in zip(one, other, strict=False) if left is not None and right is not None]
    return interval([left - right for left, right in pairs]) if pairs else None


def _leading(sweep: Sweep) -> str:
    """The metric on which finalists are compared."""
    return (sweep.select.metric if sweep.select.rule == "best" else "") or next(iter(sweep.objectives))


def _named(best: int, metrics: Metrics, sweep: Sweep) -> str:
    names = dict.fromkeys([_leading(sweep), *sweep.objectives, *([sweep.select.metric] if sweep.select.metric else [])])
    shown = (f"{name} {_figure(metrics[name])}" for name in names if name in metrics)
    return f"{trial_name(best)} is best by {_rule_text(sweep)}: {', '.join(shown)}"


def _figure(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.5g}"


def _rule_text(sweep: Sweep) -> str:
    select = sweep.select
    first = next(iter(sweep.objectives))
    match select.rule:
        case "best":
            return f"the best {select.metric or first}"
        case "knee":
            return f"the knee of {' and '.join(sweep.objectives)}"
        case "smallest_within":
            return f"the smallest {select.metric} within {select.tolerance:g} of the best {first}"


def _none_meets(trials: Sequence[TrialRecord], scores: Scores) -> str:
    """Which trial, and which constraint, was nearest."""
    off = {trial.number: sum(scores.violations(trial).values()) for trial in trials if trial.violated}
    if not off:
        counts = {state: sum(trial.state == state for trial in trials) for state in ("done", "stopped", "failed", "infeasible")}
        told = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none was tried"
        return f"No trial was measured in all objectives: {told}."
    nearest = min(off, key=lambda trial: (off[trial], trial))
    violated = next(trial.violated for trial in trials if trial.number == nearest)
    return f"None of {len(trials)} trials meets the constraints. Nearest was {trial_name(nearest)}: {'; '.join(violated)}."
