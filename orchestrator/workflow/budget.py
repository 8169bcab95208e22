"""What a run may spend: GPU-hours, CPU-hours, or money where prices are known. Never part of a key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field, model_validator

from orchestrator.errors import UsageError
from orchestrator.workflow.spec import Frozen

UNITS = {"gpu_hours": "gpuh", "cpu_hours": "cpuh", "usd": "usd"}
"""How a flag spells the limits of a budget."""

_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(gpuh|cpuh|usd)")
_WORDS = {"gpu_hours": "GPU-h", "cpu_hours": "CPU-h", "usd": "USD"}


class Budget(Frozen):
    """What a run may spend. What it would have computed and found finished costs nothing."""

    gpu_hours: float | None = Field(None, gt=0, description="GPUs held, times hours")
    cpu_hours: float | None = Field(None, gt=0, description="CPU cores held, times hours")
    usd: float | None = Field(None, gt=0, description="money, where the profile has prices")

    @model_validator(mode="after")
    def _says_something(self) -> Budget:
        if not self.limits:
            raise ValueError("expected one of gpu_hours, cpu_hours and usd")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """What is limited, by name."""
        return {name: value for name in _WORDS if (value := getattr(self, name)) is not None}

    def __str__(self) -> str:
        return ", ".join(f"{value:g} {_WORDS[name]}" for name, value in self.limits.items())


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Money for an hour of one GPU and of one CPU core; None where nobody has said."""

    usd_per_gpu_hour: float | None = None
    usd_per_cpu_hour: float | None = None

    @property
    def are_known(self) -> bool:
        """Whether there is any price."""
        return self.usd_per_gpu_hour is not None or self.usd_per_cpu_hour is not None

    def of(self, hours: Hours) -> float:
        """The price of so many hours; what has no price costs nothing."""
        return hours.gpu * (self.usd_per_gpu_hour or 0.0) + hours.cpu * (self.usd_per_cpu_hour or 0.0)


@dataclass(frozen=True)
class Hours:
    """GPU-hours and CPU-hours."""

    gpu: float = 0.0
    cpu: float = 0.0

    def __add__(self, other: Hours) -> Hours:
        return Hours(self.gpu + other.gpu, self.cpu + other.cpu)

    def __mul__(self, factor: float) -> Hours:
        return Hours(self.gpu * factor, self.cpu * factor)

    def measures(self, prices: Prices) -> dict[str, float]:
        """As a budget limits them, by name."""
        return {"gpu_hours": self.gpu, "cpu_hours": self.cpu, "usd": prices.of(self)}


NO_PRICES = Prices()
NOTHING = Hours()


def parse_budget(text: str) -> Budget:
    """A budget as a flag says it: "40gpuh", "200cpuh", "25usd", or several with commas; raises UsageError.

    Example:
        >>> parse_budget("40gpuh,25usd")
        Budget(gpu_hours=40.0, cpu_hours=None, usd=25.0)
    """
    parts = [_PART.fullmatch(part.strip()) for part in text.split(",")]
    names = {unit: name for name, unit in UNITS.items()}
    limits: Mapping[str, float] = {names[part[2]]: float(part[1]) for part in parts if part is not None}
    if len(limits) != len(parts) or not all(limits.values()):
        raise UsageError(f'--budget "{text}" is no budget; expected 40gpuh, 200cpuh or 25usd', next_step="--budget 40gpuh")
    return Budget(**limits)


def exceeded(budget: Budget, hours: Hours, prices: Prices) -> str:
    """By what the hours come to a budget's limit or beyond it, in words; empty where they stay below."""
    measures = hours.measures(prices)
    return ", ".join(
        f"{measures[name]:.3g} of {limit:g} {_WORDS[name]}" for name, limit in budget.limits.items() if measures[name] >= limit
    )
