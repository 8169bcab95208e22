"""A trial while it runs: its nodes, what it has reported, and whether it was paused or stopped; and what it took in the end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from orchestrator.engine.run_view import RunView
from orchestrator.sweeps.searcher import Suggestion
from orchestrator.sweeps.trial_plans import Nodes


@dataclass(kw_only=True)
class Trial:
    """A trial while it runs. `group` is what its nodes are called by: "search/t0007"."""

    number: int
    group: str
    suggestion: Suggestion
    nodes: Nodes
    history: list[tuple[int, float]] = field(default_factory=list)
    unheard: deque[tuple[int, float]] = field(default_factory=deque)  # came with the report that it was paused for
    is_paused: bool = False
    is_stopped: bool = False

    def label(self, part: str) -> str:
        return f"{self.group}/{part}"


def seconds_made(trial: Trial, scheduler: RunView) -> dict[str, float]:
    """By key, of the nodes that were made for this trial and not for another one."""
    spent = {node.key: scheduler.seconds_of(label) for label, node in trial.nodes.items()}
    return {key: round(seconds, 4) for key, seconds in spent.items() if seconds}


def first_error(trial: Trial, scheduler: RunView) -> str:
    """As "TrainingDiverged: ...", so that whoever reads the log of trials knows whether trying again makes sense."""
    failed = next((scheduler.units[label] for label in trial.nodes if scheduler.error_of(label)), None)
    return f"{failed.error_type}: {failed.error}" if failed is not None else "a node failed"
