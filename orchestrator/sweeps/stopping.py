"""Who is stopped early, by a metric that trials report while they run: the protocol, and HyperBand.

HyperBand is written here in its plain form (Li et al., arXiv 1603.06560, algorithm 1) and not taken from Ray Tune: Tune's has
no grace, wants a controller that owns the trials, and marks a bracket as being processed at its first halving and never
unmarks it, so that a trial that fails later leaves all the others of its bracket paused for ever (ray 2.60). ASHA and median
stopping are Tune's own (`tune.py`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from orchestrator.engine.cluster import choose_own_token
from orchestrator.errors import PlanError
from orchestrator.workflow.sweep_result import TrialRecord
from orchestrator.workflow.sweep_spec import Sweep


class Verdict(Enum):
    """What becomes of a trial that has reported. A paused one gives its place to others until `decided` names it."""

    GO_ON = "go_on"
    STOP = "stop"
    PAUSE = "pause"


class Stopper(Protocol):
    """Decides about running trials. Trials are named by their number; reports count from 1; NaN is worse than any number."""

    def report(self, trial: int, report: int, value: float) -> Verdict:
        """A trial has reported; asked again after a pause, it repeats itself."""

    def ended(self, trial: int) -> None:
        """A trial will not report again: done, stopped, failed, or struck out before it began."""

    def no_more(self, num_trials: int) -> None:
        """The search ends: trials from this number on will never come, and nobody is to wait for them."""

    def decided(self) -> dict[int, Verdict]:
        """Paused trials that now go on or stop, each named once."""

    def replay(self, record: TrialRecord) -> None:
        """Take in what a trial of a killed run reported, in any order of trials; decides nothing."""


def make_stopper(sweep: Sweep, *, longest: int | None = None) -> Stopper | None:
    """The stopper that a sweep asks for; None for none.

    Args:
        sweep: with its scheduler; the direction is its `mode`, or that of the objective of the same name.
        longest: number of reports of a trial that runs to its end; hyperband needs it.

    Raises:
        PlanError: hyperband with population based training, or for a training of unknown length.
    """
    scheduler = sweep.scheduler
    if scheduler.kind == "none" or (longest is not None and longest <= scheduler.grace):
        return None
    is_maximized = is_stopping_metric_maximized(sweep)
    if scheduler.kind == "hyperband":
        if sweep.sampler.kind == "pbt":
            raise PlanError(
                "sampler pbt and scheduler hyperband wait for each other: a generation for trials paused until the next",
                next_step="choose scheduler: asha or none",
            )
        if longest is None:
            raise PlanError(
                f"scheduler hyperband divides the length of a training, and that of {stopping_metric(sweep)} is not known",
                next_step="give its node epochs, or choose scheduler: asha",
            )
        return HyperBandStopper(
            trials=sweep.trials if sweep.trials is not None else math.inf,
            longest=longest,
            grace=scheduler.grace,
            reduction_factor=scheduler.reduction_factor,
            is_maximized=is_maximized,
        )
    choose_own_token()
    from orchestrator.sweeps import tune

    if scheduler.kind == "asha":
        return tune.AshaStopper(
            grace=scheduler.grace, reduction_factor=scheduler.reduction_factor, longest=longest, is_maximized=is_maximized
        )
    return tune.MedianStopper(grace=scheduler.grace, min_trials=scheduler.min_trials, is_maximized=is_maximized)


def stopping_metric(sweep: Sweep) -> str:
    """The metric ("node.metric") by which trials are stopped: the only objective where the scheduler names none."""
    return sweep.scheduler.metric or next(iter(sweep.objectives))


def is_stopping_metric_maximized(sweep: Sweep) -> bool:
    """Whether more of it is better: by the scheduler's `mode`, else as the objective of this name."""
    direction = sweep.scheduler.mode or sweep.objectives.get(stopping_metric(sweep))
    assert direction is not None, "a scheduler whose metric is no objective says its mode"
    return direction == "maximize"


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """Trials that are halved together, at `rungs[i]` reports for the (i + 1)-th time."""

    members: range
    rungs: tuple[int, ...]


def bands(*, longest: int, grace: int, reduction_factor: int) -> list[Bracket]:
    """The brackets of one band of HyperBand, the one that halves most often first.

    With R = `longest`, eta = `reduction_factor` and s_max the largest s with grace * eta^s <= R, bracket s has
    n = ceil((s_max + 1) / (s + 1) * eta^s) trials, whose rung i is at R * eta^(i - s) reports. The last, at R, is the end of
    the training and no rung.

    Example:
        >>> [(len(bracket.members), bracket.rungs) for bracket in bands(longest=9, grace=1, reduction_factor=3)]
        [(9, (1, 3)), (5, (3,)), (3, ())]
    """
    most = 0
    while grace * reduction_factor ** (most + 1) <= longest:
        most += 1
    brackets, first = [], 0
    for halvings in range(most, -1, -1):
        size = math.ceil((most + 1) * reduction_factor**halvings / (halvings + 1))
        brackets.append(
            Bracket(
                members=range(first, first + size),
                rungs=tuple(longest // reduction_factor ** (halvings - index) for index in range(halvings)),
            )
        )
        first += size
    return brackets


@dataclass(kw_only=True)
class HyperBandStopper:
    """Synchronous halving in brackets. Trial n has its place in the n-th position of the bands, one band after the other.

    At rung i of a bracket the best floor(n * eta^-(i + 1)) of those that came so far go on, at least one; n is smaller in the
    bracket in which the sweep's trials end.

    What becomes of a trial follows from two facts alone, the values at the rungs and who has ended, so the order in which they
    come to be known changes nothing. A trial that ended before its rung drops out; the others do not wait for it.
    """

    trials: float
    longest: int
    grace: int
    reduction_factor: int
    is_maximized: bool
    _values: dict[int, dict[int, float]] = field(default_factory=dict)  # trial -> rung's index -> value, more is better
    _ended: set[int] = field(default_factory=set)
    _paused: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._band = bands(longest=self.longest, grace=self.grace, reduction_factor=self.reduction_factor)

    def report(self, trial: int, report: int, value: float) -> Verdict:
        self._take(trial, report, value)
        self._paused.discard(trial)
        verdict = self._verdict(trial)
        if verdict is Verdict.PAUSE:
            self._paused.add(trial)
        return verdict

    def replay(self, record: TrialRecord) -> None:
        for report, value in record.history:
            self._take(record.number, report, value)
        self.ended(record.number)

    def ended(self, trial: int) -> None:
        self._ended.add(trial)
        self._paused.discard(trial)

    def no_more(self, num_trials: int) -> None:
        self.trials = min(self.trials, num_trials)

    def decided(self) -> dict[int, Verdict]:
        found = {trial: self._verdict(trial) for trial in sorted(self._paused)}
        self._paused = {trial for trial, verdict in found.items() if verdict is Verdict.PAUSE}
        return {trial: verdict for trial, verdict in found.items() if trial not in self._paused}

    def _take(self, trial: int, report: int, value: float) -> None:
        turned = (value if self.is_maximized else -value) if not math.isnan(value) else -math.inf
        known = self._values.setdefault(trial, {})
        for index, rung in enumerate(self._bracket(trial).rungs):
            if report >= rung:
                known.setdefault(index, turned)

    def _verdict(self, trial: int) -> Verdict:
        bracket = self._bracket(trial)
        going = list(bracket.members)
        for index in range(len(bracket.rungs)):
            if index not in self._values.get(trial, {}):
                return Verdict.GO_ON
            best = self._best(bracket, index, going)
            if best is None:
                return Verdict.PAUSE
            if trial not in best:
                return Verdict.STOP
            going = best
        return Verdict.GO_ON

    def _best(self, bracket: Bracket, index: int, going: list[int]) -> list[int] | None:
        """Who goes on after a rung, of those who were to reach it; None while one of them is awaited."""
        arrived = {trial: self._values[trial][index] for trial in going if index in self._values.get(trial, {})}
        if any(trial < self.trials and trial not in arrived and trial not in self._ended for trial in going):
            return None
        size = sum(trial < self.trials for trial in bracket.members)
        keep = max(1, size // self.reduction_factor ** (index + 1))
        return sorted(arrived, key=lambda trial: (-arrived[trial], trial))[:keep]

    def _bracket(self, trial: int) -> Bracket:
        size = self._band[-1].members.stop
        first, place = trial - trial % size, trial % size
        bracket = next(bracket for bracket in self._band if place in bracket.members)
        return Bracket(members=range(first + bracket.members.start, first + bracket.members.stop), rungs=bracket.rungs)
