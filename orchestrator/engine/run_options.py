"""How a run goes on and what it may use: no part of any key, and of no node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
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

    def to_request(self) -> dict[str, Any]:
        """What a run's request keeps of it, for whoever drives or continues it."""
        asked: dict[str, Any] = {"keep_going": self.keep_going}
        if self.budget is not None:
            spent = {"gpu": self.spent_before.gpu, "cpu": self.spent_before.cpu}
            asked |= {"budget": self.budget.limits, "prices": asdict(self.prices), "spent_before": spent}
        return asked | ({"max_gpus": self.max_gpus} if self.max_gpus is not None else {})


def options_recorded(request: Mapping[str, Any]) -> RunOptions:
    """The options that a request keeps."""
    budget = request.get("budget")
    return RunOptions(
        keep_going=bool(request.get("keep_going")),
        budget=Budget(**budget) if budget else None,
        prices=Prices(**request.get("prices", {})),
        spent_before=Hours(**request.get("spent_before", {})),
        max_gpus=request.get("max_gpus"),
    )
