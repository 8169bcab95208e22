"""What a search has cost, and what it would have cost had every trial made all of its nodes itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.workflow.sweep_result import TrialRecord


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds computed and seconds avoided. Bounded by the share of a trial that others have in common with it."""

    spent_s: float
    avoided_s: float

    @property
    def factor(self) -> float:
        """How many times as much the trials would have cost one by one; 1 where nothing was shared."""
        return (self.spent_s + self.avoided_s) / self.spent_s if self.spent_s else 1.0

    @property
    def saving(self) -> float:
        """1 - (sum of seconds over distinct nodes) / (sum of seconds over nodes per trial)."""
        total_s = self.spent_s + self.avoided_s
        return self.avoided_s / total_s if total_s else 0.0


def cost(trials: Iterable[TrialRecord], *, found: Mapping[str, float] | None = None) -> Cost:
    """Hold the seconds of distinct nodes against those of all trials' nodes.

    Trials that were struck out before anything ran would have run nothing one by one either.

    Args:
        trials: with the keys of their nodes and the seconds of what was made for them.
        found: seconds of nodes that were in the store before the search, by key: nothing spent, and avoided by every trial.
    """
    trials = [trial for trial in trials if trial.state != "infeasible"]
    made = {key: seconds for trial in trials for key, seconds in trial.seconds.items()}
    known = {**(found or {}), **made}
    one_by_one_s = sum(known.get(key, 0.0) for trial in trials for key in {*trial.keys.values(), *trial.seconds})
    spent_s = sum(made.values())
    return Cost(spent_s=spent_s, avoided_s=one_by_one_s - spent_s)
