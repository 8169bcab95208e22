"""Plans of a few nodes, and the nodes of a trial."""

from __future__ import annotations

from typing import Any

import pytest
from growing import BASE, HEAD
from virtual import trial_nodes

from orchestrator.workflow.plan import Plan


@pytest.fixture
def plan(plan_text):
    def make(nodes: str, **options: Any) -> Plan:
        return plan_text(HEAD + "".join(f"  {line.strip()}\n" for line in nodes.strip().splitlines()), **options)

    return make


@pytest.fixture
def trial(plan):
    """The nodes of a trial: train -> export, below the outer node `base`."""

    def make(name: str, *, value: Any = None, train: str = "", export: str = "") -> Any:
        text = BASE + (
            f"train: {{stage: probe.echo, params: {{value: {value or name}}}, inputs: {{inputs: base}}{train}}}\n"
            f"export: {{stage: probe.echo, params: {{value: [export, {name}]}}, inputs: {{inputs: train}}{export}}}\n"
        )
        return trial_nodes(plan(text), name, outer={"base"})

    return make
