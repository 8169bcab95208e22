"""What a finished sweep keeps: its trials, the front, and which is best. The content of `sweep.json` in the sweep's artifact.

The trial log of an unfinished sweep holds the same `TrialRecord`s, one file each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

SWEEP_STAGE = "sweep"
"""Under this name a sweep's artifact stands in the store, beside those of stages."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial. `state` is done, stopped (early), failed, or infeasible (struck out by a static constraint, nothing run).

    Attributes:
        number: from 0, in the order of proposal; the trial's nodes are labelled `sweep/t0007/node`.
        values: the searched parameters by "node.parameter"; those whose condition did not hold are absent.
        keys: artifact key of each of the trial's nodes; with a carry, those of its own generation.
        metrics: "node.metric" of all that was reported at the end; of a stopped trial what it last reported.
        history: (report number from 1, value) of the early-stopping metric.
        stopping: the rule of early stopping that it ran under, `metric` among it; empty without one.
        parent: pbt: number of the trial that this one goes on from, else None.
        seconds: by key, of the nodes that were made for it.
        violated: the constraints it does not meet, in words, with the distance.
    """

    number: int
    values: Mapping[str, Any]
    state: str
    keys: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    history: Sequence[tuple[int, float]] = ()
    stopping: Mapping[str, Any] = field(default_factory=dict)
    parent: int | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    violated: Sequence[str] = ()
    error: str = ""

    def to_data(self) -> dict[str, Any]:
        """As plain JSON data."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> TrialRecord:
        """The inverse of `to_data`."""
        history = tuple((int(step), float(value)) for step, value in data.get("history", ()))
        return cls(**{**data, "history": history, "violated": tuple(data.get("violated", ()))})


@dataclass(frozen=True, kw_only=True)
class SweepResult:
    """How a sweep ended. `best` is None where no trial meets the constraints; `verdict` says in words why or by how much.

    Attributes:
        trials: all, by number.
        front: numbers of the non-dominated trials that meet the constraints, best first objective first.
        best: number of the chosen trial.
        ties: numbers of finalists that the intervals do not tell from the best.
        repeats: by finalist's number: metrics ("node.metric") of each further seed.
        avoided_s: seconds that trials would have cost over what was computed (sharing and hits), and `spent_s` what it cost.
    """

    trials: Sequence[TrialRecord]
    front: Sequence[int]
    best: int | None
    verdict: str
    rule: str
    objectives: Mapping[str, str]
    ties: Sequence[int] = ()
    repeats: Mapping[int, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    spent_s: float = 0.0
    avoided_s: float = 0.0

    def to_data(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {
            **asdict(self),
            "trials": [trial.to_data() for trial in self.trials],
            "repeats": {str(number): list(found) for number, found in self.repeats.items()},
        }

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> SweepResult:
        """The inverse of `to_data`."""
        return cls(
            **{
                **data,
                "trials": tuple(TrialRecord.from_data(trial) for trial in data["trials"]),
                "front": tuple(data["front"]),
                "ties": tuple(data.get("ties", ())),
                "repeats": {int(number): tuple(found) for number, found in data["repeats"].items()},
            }
        )
