"""How a run goes on and what it may use: no part of any key, and of no node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator.workflow.budget import NO_PRICES, NOTHING, Budget, Hours, Prices

TICK_S = 0.25

Event = dict[str, Any]


class Clock(Protocol):
    """Seconds that only grow."""

    def __call__(self) -> float: ...


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run goes on, and what it may use. No part of any key.

    Attributes:
        keep_going: after a failure, go on with what does not need the failed node.
        grace_s: so long a cancelled stage may take to stop.
        budget: where what was spent comes to it, what runs ends and nothing more is started.
        prices: for a budget in money.
        spent_before: what the runs that this one continues have spent of the same budget.
        max_gpus: so many GPUs are held at once, at most.
        tick_s: how often the scheduler looks around while nothing happens.
    """

    keep_going: bool = False
    grace_s: float = 10.0
    budget: Budget | None = None
    prices: Prices = NO_PRICES
    spent_before: Hours = NOTHING
    max_gpus: float | None = None
    tick_s: float = TICK_S
