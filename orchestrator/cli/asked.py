"""What was asked of a run beside its plan: handed on from the command to whoever begins it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orchestrator.api import RunOptions


@dataclass(frozen=True, kw_only=True)
class Asked:
    """As `api.submit` and `api.enqueue` take it: their arguments by these names."""

    options: RunOptions = field(default_factory=RunOptions)
    tags: Mapping[str, str] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)
    idempotency_key: str = ""
