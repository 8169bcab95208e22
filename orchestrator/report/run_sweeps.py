"""The sweeps of a run as its events tell them: which trials there are, how each ended, what was chosen. Reads no store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.errors import WorkflowError

if TYPE_CHECKING:
    from orchestrator.workflow.sweep_spec import Sweep, SweepNode

SWEEP_EVENTS = ("sweep_started", "sweep_settled", "sweep_failed", "sweep_blocked", "trial_started", "trial_ended")

RUNNING = "running"


@dataclass
class RunTrial:
    """One trial. `state` is running, done, stopped, failed or infeasible; cancelled or interrupted where its run was.

    `metrics` are those of the objectives, `label` is what its nodes' labels begin with: "search/t0007".
    """

    number: int
    label: str
    values: Mapping[str, Any]
    state: str = RUNNING
    parent: int | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    violated: Sequence[str] = ()
    error: str = ""
    started: str = ""
    ended: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it was measured and meets the constraints."""
        return self.state == "done" and not self.violated


@dataclass
class RunSweep:
    """One sweep of a run. `state` is searching, settled, failed or blocked; cancelled or interrupted where its run was.

    `limit` is the number of trials asked for (None: the whole grid), `known` how many of them earlier runs had ended.
    """

    name: str
    state: str = "searching"
    key: str = ""
    limit: int | None = None
    known: int = 0
    objectives: Mapping[str, str] = field(default_factory=dict)
    trials: dict[int, RunTrial] = field(default_factory=dict)
    best: int | None = None
    front: Sequence[int] = ()
    verdict: str = ""
    spent_s: float = 0.0
    avoided_s: float = 0.0
    error: str = ""
    started: str = ""
    ended: str = ""

    def count(self, *states: str) -> int:
        """Number of trials in one of these states."""
        return sum(trial.state in states for trial in list(self.trials.values()))

    @property
    def leader(self) -> RunTrial | None:
        """The best trial; before the sweep has settled, that with the best first objective of those that ended well."""
        if self.best is not None and self.best in self.trials:
            return self.trials[self.best]
        if self.state == "settled":
            return None
        good = [trial for trial in list(self.trials.values()) if trial.is_good]
        return min(good, key=self.place, default=None)

    def place(self, trial: RunTrial) -> tuple[float, int]:
        """Sorts trials by the first objective, best first."""
        return first_place(trial.metrics, self.objectives), trial.number


def first_place(metrics: Mapping[str, Any], objectives: Mapping[str, str]) -> float:
    """The first objective turned so that less is better; what is missing comes last."""
    name, direction = next(iter(objectives.items()), ("", ""))
    value = metrics.get(name)
    if not isinstance(value, (int, float)) or value != value:  # noqa: PLR0124 - NaN is the one that differs from itself
        return float("inf")
    return -value if direction == "maximize" else value


def apply_sweep_event(
    sweeps: Mapping[str, RunSweep], event: Mapping[str, Any], request: Mapping[str, Any]
) -> dict[str, RunSweep]:
    """The sweeps after one more event; a new mapping where a sweep joins, since other threads may be reading the old one."""
    name, kind, when = event["sweep"], event["type"], event.get("time", "")
    found = dict(sweeps)
    sweep = found.setdefault(name, RunSweep(name))
    if kind == "sweep_started":
        sweep.key, sweep.limit, sweep.known, sweep.started = event["key"], event["trials"], event.get("known", 0), when
        sweep.objectives = event.get("objectives") or objectives_asked(request).get(name, {})
    elif kind == "sweep_settled":
        sweep.state, sweep.ended = "settled", when
        for field_name in ("key", "best", "front", "verdict", "spent_s", "avoided_s"):
            setattr(sweep, field_name, event[field_name])
    elif kind == "sweep_failed":
        sweep.state, sweep.error, sweep.ended = "failed", event["error"], when
    elif kind == "sweep_blocked":
        sweep.state, sweep.error, sweep.ended = "blocked", f"needs {event['by']}, which did not finish", when
    elif kind == "trial_started":
        trial = RunTrial(event["number"], event["trial"], event["values"], parent=event.get("parent"), started=when)
        sweep.trials = {**sweep.trials, trial.number: trial}
    elif kind == "trial_ended":
        trial = sweep.trials.get(event["number"]) or RunTrial(event["number"], event["trial"], event["values"])
        trial.state, trial.metrics, trial.ended = event["state"], event["metrics"], when
        trial.violated, trial.error = event.get("violated", ()), event.get("error", "")
        sweep.trials = {**sweep.trials, trial.number: trial}
    return found


def close_sweeps(sweeps: Mapping[str, RunSweep], state: str) -> None:
    """Nothing is searched in a run that has ended."""
    for sweep in sweeps.values():
        if sweep.state == "searching":
            sweep.state = state
        for trial in sweep.trials.values():
            if trial.state == RUNNING:
                trial.state = state


def objectives_asked(request: Mapping[str, Any]) -> dict[str, Mapping[str, str]]:
    """By sweep, the objectives that the run's workflow names; nothing where the text cannot be read any more."""
    return {name: dict(settings.objectives) for name, settings in sweeps_asked(request).items()}


def sweeps_asked(request: Mapping[str, Any]) -> dict[str, Sweep]:
    """By name, the settings of each sweep in the workflow text that a run was asked for."""
    return {name: node.sweep for name, node in sweep_nodes_asked(request).items()}


def sweep_nodes_asked(request: Mapping[str, Any]) -> dict[str, SweepNode]:
    """By name, each sweep in the workflow text that a run was asked for, with the nodes of its trials."""
    text = request.get("text", "")
    if "sweep" not in text:
        return {}
    from orchestrator.workflow.load import load_text

    try:
        loaded = load_text(text, file=request.get("file", ""), overrides=request.get("overrides", ()))
    except WorkflowError:  # written for another version
        return {}
    return dict(loaded.workflow.sweeps)
