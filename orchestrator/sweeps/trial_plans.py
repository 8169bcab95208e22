"""Trials of one search as nodes that can join its run: planned with what they go on from, statuses from the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.engine.scheduler import Scheduler
from orchestrator.store.artifacts import Artifacts
from orchestrator.workflow.plan import PlanNode, PlanSweep
from orchestrator.workflow.statuses import with_status
from orchestrator.workflow.trials import plan_trial, trial_label

Nodes = Mapping[str, PlanNode]


class TrialPlans:
    """Plans trials by number. Of a search that carries artifacts on it remembers each trial, since children need its nodes."""

    def __init__(self, sweep: PlanSweep, artifacts: Artifacts) -> None:
        self.sweep = sweep
        self.artifacts = artifacts
        sampler = sweep.checked.node.sweep.sampler
        self._carry = dict(sampler.carry) if sampler.kind == "pbt" else {}
        self._outer = {node.label: node for node in sweep.outer.values()}
        self._known: dict[int, tuple[Nodes, int | None]] = {}  # by number: its nodes, and the number of its parent

    def group(self, number: int, *, seed: int | None = None) -> str:
        """What the nodes of a trial, or of its repeat with another seed, are called by: "search/t0007", "search/t0007.s1"."""
        return trial_label(self.sweep.name, number) + ("" if seed is None else f".s{seed}")

    def plan(self, number: int, values: Mapping[str, Any], *, parent: int | None = None, seed: int | None = None) -> Nodes:
        """The trial's nodes by label, parents first. Raises PlanError where its stages refuse the values together.

        Raises KeyError for a parent that is not known, and for values of another space.
        """
        carried: dict[str, PlanNode] = {}
        if self._carry and parent is not None:
            nodes, _ = self._known[parent]
            carried = {port: nodes[f"{self.group(parent)}/{maker}"] for port, maker in self._carry.items()}
        return plan_trial(
            self.sweep.checked,
            trial=self.group(number, seed=seed),
            values=values,
            outer=self.sweep.outer,
            seed=seed,
            carried=carried,
        )

    def remember(self, number: int, nodes: Nodes, *, parent: int | None) -> None:
        """The trial counts under this number: others may go on from it."""
        if self._carry:
            self._known[number] = (nodes, parent)

    def around(self, parent: int | None) -> Nodes:
        """What a trial refers to outside of itself, by label: the outer nodes, and those of the trial it goes on from."""
        return self._outer if parent is None or not self._carry else {**self._outer, **self._known[parent][0]}

    def join(self, nodes: Nodes, scheduler: Scheduler, *, group: str, parent: int | None) -> None:
        """Add a trial's nodes, and before them those of the trials it goes on from, where an earlier run has made them."""
        line: list[int] = []
        while self._carry and parent is not None and self.group(parent) not in scheduler.graph.groups:
            line.append(parent)
            parent = self._known[parent][1]
        for number in reversed(line):
            scheduler.add(self._with_records(self._known[number][0]).values(), group=self.group(number))
        scheduler.add(self._with_records(nodes).values(), group=group)

    def _with_records(self, nodes: Nodes) -> Nodes:
        return with_status(nodes, self.artifacts, outer=self._outer.values())


def keys_of(nodes: Nodes) -> dict[str, str]:
    """Artifact keys by the nodes' names inside the trial."""
    return {label.rpartition("/")[2]: node.key for label, node in nodes.items()}
