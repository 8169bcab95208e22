"""A search while it goes on, in a line or three: its trials, how many have come to each rung, and the front so far."""

from __future__ import annotations

from collections.abc import Mapping

from orchestrator.engine.progress import EpochReports
from orchestrator.report.run_status import RunStatus
from orchestrator.report.run_sweeps import RUNNING, RunSweep, RunTrial, sweeps_asked
from orchestrator.report.sweep_table import metrics_text
from orchestrator.store.ledger import Ledger
from orchestrator.workflow.references import split_metric
from orchestrator.workflow.sweep_spec import Sweep
from orchestrator.workflow.trials import trial_name

MAX_SHOWN = 4
"""Trials of the front that the live block names; a terminal has no room for more."""


class Rungs:
    """How many reports each trial of the searches with early stopping has made, read on as the ledger grows."""

    def __init__(self, ledger: Ledger, status: RunStatus) -> None:
        self._reports = EpochReports(ledger, run=status.id)
        self._asked: Mapping[str, Sweep] = {
            name: sweep for name, sweep in sweeps_asked(status.request).items() if sweep.scheduler.kind != "none"
        }
        self._reached: dict[str, dict[int, int]] = {name: {} for name in self._asked}
        self._closed: set[str] = set()

    def read(self, status: RunStatus) -> None:
        """Look what running trials have reported since the last look; one that has ended is looked at once more."""
        for name, asked in self._asked.items():
            sweep = status.sweeps.get(name)
            if sweep is None:
                continue
            part = split_metric(asked.scheduler.metric or next(iter(asked.objectives)))[0]
            for trial in list(sweep.trials.values()):
                label = f"{trial.label}/{part}"
                node = status.nodes.get(label)
                if node is None or label in self._closed or node.state in ("planned", "hit"):
                    continue
                if trial.state != RUNNING:
                    self._closed.add(label)
                for report in self._reports.read({label: node.folder}):
                    self._reached[name][trial.number] = report.epoch

    def text(self, sweep: RunSweep) -> str:
        """As in "1: 6 trials, 3: 2 (4 stopped before)"; empty for a search that stops nothing, or before the first report."""
        asked, reached = self._asked.get(sweep.name), self._reached.get(sweep.name)
        if asked is None or not reached:
            return ""
        levels = rung_levels(asked, max(reached.values()))
        counts = [sum(number >= level for number in reached.values()) for level in levels]
        parts = [f"{level}: {count}" for level, count in zip(levels, counts, strict=True)]
        return f"trials by reports  {', '.join(parts)}; {sweep.count('stopped')} stopped"


def rung_levels(sweep: Sweep, longest: int) -> list[int]:
    """After how many reports trials are compared: the grace, and each time the reduction factor times as many.

    Median stopping has no rungs: the grace alone, and what the longest trial has come to.
    """
    scheduler = sweep.scheduler
    if scheduler.kind == "median":
        return sorted({scheduler.grace, max(scheduler.grace, longest)})
    levels = [scheduler.grace]
    while levels[-1] * scheduler.reduction_factor <= longest:
        levels.append(levels[-1] * scheduler.reduction_factor)
    return levels


def front_so_far(sweep: RunSweep) -> list[RunTrial]:
    """The trials that were measured, meet the constraints and are dominated by no other; of one objective the best alone."""
    from orchestrator.sweeps.pareto import front

    good = [trial for trial in list(sweep.trials.values()) if trial.is_good]
    names = list(sweep.objectives)
    points = [[trial.metrics.get(name) for name in names] for trial in good]
    return [good[index] for index in front(points, directions=list(sweep.objectives.values()))]


def front_text(sweep: RunSweep) -> str:
    """As in "front so far  t0007 top1_accuracy 0.91, size_bytes 43,560; t0003 ..."; empty without several objectives."""
    if len(sweep.objectives) < 2:
        return ""
    found = front_so_far(sweep)
    if not found:
        return ""
    parts = [f"{trial_name(trial.number)} {metrics_text(trial.metrics)}" for trial in found[:MAX_SHOWN]]
    more = f"; and {len(found) - MAX_SHOWN} more" if len(found) > MAX_SHOWN else ""
    return f"front so far  {'; '.join(parts)}{more}"
