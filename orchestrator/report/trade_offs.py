"""The non-dominated trials of one or several sweeps together: which they are, as a table and as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.report.found_sweeps import FoundSweep
from orchestrator.report.sweep_table import mark, trial_document, values_text
from orchestrator.report.text import Column, Style, format_figure, format_table, plural, short_names
from orchestrator.workflow.sweep_result import TrialRecord


@dataclass(frozen=True, kw_only=True)
class Point:
    """A trial that was measured in all objectives; `is_good` where it meets its sweep's constraints."""

    found: FoundSweep
    trial: TrialRecord
    values: Sequence[float]
    is_good: bool

    @property
    def label(self) -> str:
        """search/t0007."""
        return self.found.label(self.trial.number)

    @property
    def is_best(self) -> bool:
        """Whether its own sweep has it for the best."""
        return mark(self.found, self.trial.number) == "best"


@dataclass(frozen=True, kw_only=True)
class TradeOffs:
    """The points of all sweeps; `front`: indices of those that are good and not dominated, best first objective first."""

    sweeps: Sequence[FoundSweep]
    objectives: dict[str, str]
    points: Sequence[Point]
    front: Sequence[int]

    @property
    def members(self) -> list[Point]:
        """The points of the front."""
        return [self.points[index] for index in self.front]


def trade_offs(sweeps: Sequence[FoundSweep]) -> TradeOffs:
    """Put the trials of sweeps with the same objectives together; UsageError where they differ."""
    from orchestrator.sweeps import pareto
    from orchestrator.sweeps.constraints import number

    objectives = dict(sweeps[0].objectives)
    for other in sweeps[1:]:
        if dict(other.objectives) != objectives:
            raise UsageError(
                f"these sweeps cannot be put together: {_named(sweeps[0])} has {_asked(sweeps[0])}; "
                f"{_named(other)} has {_asked(other)}",
                next_step=f"orchestrator pareto {_named(sweeps[0])}    (RUN/SWEEP: one of them alone)",
            )
    points: list[Point] = []
    seen: set[tuple[str, ...]] = set()
    for found in sweeps:
        for trial in found.trials:
            values = [number(trial.metrics.get(name)) for name in objectives]
            keys = tuple(trial.keys.values())
            if trial.state != "done" or any(value is None for value in values) or (keys and keys in seen):
                continue
            seen.add(keys)  # two runs of one search have the same trials
            known = [value for value in values if value is not None]
            points.append(Point(found=found, trial=trial, values=known, is_good=not trial.violated))
    good = [index for index, point in enumerate(points) if point.is_good]
    members = pareto.front([points[index].values for index in good], directions=list(objectives.values()))
    return TradeOffs(sweeps=sweeps, objectives=objectives, points=points, front=[good[member] for member in members])


def trade_off_lines(found: TradeOffs, *, style: Style, width: int | None) -> list[str]:
    """The front as a table, best first objective first."""
    has_several = len({(sweep.run, sweep.name) for sweep in found.sweeps}) > 1
    so_far = "" if all(sweep.is_settled for sweep in found.sweeps) else " so far"
    off = sum(not point.is_good for point in found.points)
    others = f", {off} beyond a constraint" if off else ""
    head = f"{len(found.front)} of {plural(len(found.points), 'trial')} not dominated{so_far}{others}: {_directions(found)}"
    if not found.front:
        return [head]
    short = short_names([*found.objectives, *dict.fromkeys(name for point in found.members for name in point.trial.values)])
    columns = [
        *([Column("RUN")] if has_several else []), Column("TRIAL"), Column("MARK"),
        *(Column(short[name], right=True) for name in found.objectives), Column("VALUES"),
    ]  # fmt: skip
    rows = [
        [
            *([point.found.run] if has_several else []),
            point.label,
            "best" if point.is_best else "",
            *(format_figure(point.trial.metrics.get(name)) for name in found.objectives),
            values_text(point.found.values_of(point.trial), short),
        ]
        for point in found.members
    ]
    return [head, *format_table(columns, rows, style=style, width=width, last_lines=2)]


def nearest_text(found: TradeOffs) -> str:
    """Why the front is empty: the verdict of each sweep, or that nothing was measured yet."""
    texts = [f"{_named(sweep)}: {sweep.so_far.verdict}" for sweep in found.sweeps if sweep.so_far is not None]
    return " ".join(texts) or "no trial has ended yet"


def trade_off_document(found: TradeOffs) -> dict[str, Any]:
    """The same as data, with the dominated trials and those beyond a constraint."""
    members = set(found.front)

    def document(point: Point) -> dict[str, Any]:
        return {"run": point.found.run, "sweep": point.found.name, **trial_document(point.found, point.trial)}

    return {
        "objectives": dict(found.objectives),
        "sweeps": [{"run": sweep.run, "sweep": sweep.name, "is_settled": sweep.is_settled} for sweep in found.sweeps],
        "front": [document(point) for point in found.members],
        "others": [document(point) for index, point in enumerate(found.points) if index not in members],
    }


def _directions(found: TradeOffs) -> str:
    return ", ".join(f"{direction} {name}" for name, direction in found.objectives.items())


def _named(found: FoundSweep) -> str:
    return f"{found.run}/{found.name}"


def _asked(found: FoundSweep) -> str:
    return ", ".join(f"{direction} {name}" for name, direction in found.objectives.items()) or "no objectives"
