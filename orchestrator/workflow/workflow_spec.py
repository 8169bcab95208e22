"""The workflow as data: nodes that run stages, and nodes that search. Describes work; plans and runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from orchestrator.workflow.budget import Budget
from orchestrator.workflow.notify_spec import Notify
from orchestrator.workflow.spec import NAME_PATTERN, Frozen, Node
from orchestrator.workflow.sweep_spec import SweepNode


class Workflow(Frozen):
    """One workflow file. `nodes` and `sweeps` stand together under `nodes:` in the file: a sweep is a node with `sweep:`."""

    version: Literal[1]
    name: str = Field(pattern=NAME_PATTERN)
    seed: int = Field(0, ge=0, lt=2**32)
    notify: tuple[Notify, ...] = ()
    budget: Budget | None = None
    nodes: Mapping[str, Node]
    sweeps: Mapping[str, SweepNode] = Field(default_factory=dict)
