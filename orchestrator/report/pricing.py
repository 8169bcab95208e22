"""What a plan will cost and what it avoids, from what earlier runs took. A figure rests on records, or there is none."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.engine.meter import hours_of
from orchestrator.report.foreseen import foresee, num_trials
from orchestrator.store.artifacts import Artifacts
from orchestrator.workflow.budget import NOTHING, Hours
from orchestrator.workflow.estimate import Estimate, Estimator
from orchestrator.workflow.plan import Plan, PlanNode, PlanSweep, Status, SweepStatus
from orchestrator.workflow.references import split_metric
from orchestrator.workflow.search_space import num_values

DRAWN = 16
"""Trials of a sweep that are looked at for the price of one."""


@dataclass(frozen=True)
class NodePrice:
    """Hours to make a node; `num_records` is on how many attempts they rest."""

    low: Hours
    high: Hours
    num_records: int


@dataclass(frozen=True, kw_only=True)
class PlanPrice:
    """Hours to spend, from `low` to `high`, and hours avoided.

    Attributes:
        nodes: of the nodes that will run, by label, those of which there are records.
        avoided: of hits, by label.
        num_to_make, num_priced: nodes to be made, trials' among them, and how many of them have a price.
        unpriced: names of nodes of which there is no record yet.
        by_hits, by_sharing: hours avoided.
    """

    low: Hours = NOTHING
    high: Hours = NOTHING
    num_to_make: int = 0
    num_priced: int = 0
    num_records: int = 0
    unpriced: tuple[str, ...] = ()
    by_hits: Hours = NOTHING
    by_sharing: Hours = NOTHING
    nodes: Mapping[str, NodePrice] = field(default_factory=dict)
    avoided: Mapping[str, Hours] = field(default_factory=dict)


def price_plan(plan: Plan, artifacts: Artifacts) -> PlanPrice:
    """Price a plan. Reads no artifact beyond those of the plan, and of each stage that will run the newest history."""
    pricing = _Pricing(plan, artifacts)
    if plan.has_work:
        foreseen = foresee(plan, artifacts, most_trials=DRAWN)
        trials = [nodes for drawn in foreseen.trials.values() for nodes in drawn]
        pricing.estimator.nodes = {**foreseen.plan.nodes, **{label: node for nodes in trials for label, node in nodes.items()}}
        for node in foreseen.plan.nodes.values():
            if node.name not in plan.checked.sweeps:
                pricing.add(node)
        for name, sweep in foreseen.sweeps.items():
            pricing.add_sweep(sweep, foreseen.trials[name])
    else:
        for node in plan.nodes.values():
            if node.name not in plan.checked.sweeps:
                pricing.add(node)
    for sweep in plan.sweeps.values():
        pricing.add_settled(sweep)
    return pricing.result()


class _Pricing:
    def __init__(self, plan: Plan, artifacts: Artifacts) -> None:
        self.artifacts = artifacts
        self.estimator = Estimator(artifacts.store, plan.nodes)
        self.low = self.high = self.by_hits = self.by_sharing = NOTHING
        self.num_to_make = self.num_priced = 0
        self.nodes: dict[str, NodePrice] = {}
        self.avoided: dict[str, Hours] = {}
        self._unpriced: dict[str, None] = {}
        self._num_records: dict[object, int] = {}

    def result(self) -> PlanPrice:
        return PlanPrice(
            low=self.low, high=self.high, num_to_make=self.num_to_make, num_priced=self.num_priced,
            num_records=sum(self._num_records.values()), unpriced=tuple(self._unpriced), by_hits=self.by_hits,
            by_sharing=self.by_sharing, nodes=self.nodes, avoided=self.avoided,
        )  # fmt: skip

    def add(self, node: PlanNode) -> None:
        """One node that stands in the plan."""
        if node.status is Status.HIT and node.record is not None:
            if node.existing is None:
                self.avoided[node.label] = hours_of(node.asked.resources, node.record.seconds)
                self.by_hits += self.avoided[node.label]
        elif node.status in (Status.RUN, Status.SHARED):
            found = self._estimate(node)
            if node.status is Status.SHARED:
                self.by_sharing += hours_of(node.asked.resources, found.typical_s) if found is not None else NOTHING
                return
            self.num_to_make += 1
            if found is None:
                self._unpriced[node.node] = None
                return
            price = NodePrice(
                hours_of(node.asked.resources, found.low_s), hours_of(node.asked.resources, found.high_s), found.num_records
            )
            self.nodes[node.label] = price
            self._spend(price.low, price.high, priced=1)

    def add_sweep(self, sweep: PlanSweep, trials: Sequence[Mapping[str, PlanNode]]) -> None:
        """A search that is still to be made: of each of its nodes, how many trials differ in it."""
        numbers = num_trials(sweep, self.artifacts)
        if numbers is None or not trials:
            self._unpriced[sweep.name] = None
            return
        left = numbers[0] - numbers[1]
        for part in sweep.checked.order:
            drawn = [nodes[label] for nodes in trials for label in nodes if label.rpartition("/")[2] == part]
            node = sweep.checked.node.nodes[part]
            fewest, most = num_distinct(sweep, part, left)
            if most == 1 and drawn[0].status is Status.HIT:
                seconds = drawn[0].record.seconds if drawn[0].record is not None else 0.0
                self.by_hits += hours_of(node.resources, seconds)
                self.by_sharing += hours_of(node.resources, seconds * max(0, left - 1))
                continue
            found = _merged(self._estimate(each) for each in drawn)
            repeats = _num_repeats(sweep)
            self.num_to_make += most + repeats
            if found is None:
                self._unpriced[f"{sweep.name}.{part}"] = None
                continue
            low = hours_of(node.resources, found.low_s * (min(1, fewest) if _may_be_spared(sweep, part) else fewest))
            high = hours_of(node.resources, found.high_s * (most + repeats))
            self._spend(low, high, priced=most + repeats)
            self.by_sharing += hours_of(node.resources, found.typical_s * (left - most))

    def add_settled(self, sweep: PlanSweep) -> None:
        """A search whose result stands: what its trials took is avoided."""
        if sweep.status is not SweepStatus.HIT or sweep.result is None or sweep.record is None:
            return
        counted: set[str] = set()
        for trial in sweep.result.trials:
            for part, key in trial.keys.items():
                node = sweep.checked.node.nodes.get(part)
                if node is not None and key not in counted and key in trial.seconds:
                    counted.add(key)
                    self.by_hits += hours_of(node.resources, trial.seconds[key])

    def _estimate(self, node: PlanNode) -> Estimate | None:
        found = self.estimator.estimate(node)
        if found is not None:
            self._num_records[(node.spec.name, found.low_s, found.high_s)] = found.num_records
        return found

    def _spend(self, low: Hours, high: Hours, *, priced: int) -> None:
        self.low, self.high = self.low + low, self.high + high
        self.num_priced += priced


def num_distinct(sweep: PlanSweep, part: str, trials: int) -> tuple[int, int]:
    """How many different artifacts so many trials have at one of their nodes: what to expect of an even draw, and at most."""
    settings = sweep.checked.node.sweep
    above = _with_above(sweep, part)
    kinds = 1.0
    for name, distribution in settings.space.items():
        if name.partition(".")[0] in above:
            kinds *= num_values(distribution) or math.inf
    if trials <= 0:
        return 0, 0
    if math.isinf(kinds) or settings.sampler.kind == "pbt":
        return trials, trials
    most = int(min(trials, kinds))
    if settings.sampler.kind == "grid":
        return most, most
    expected = kinds * (1 - (1 - 1 / kinds) ** trials)
    return max(1, min(most, int(expected))), most


def _with_above(sweep: PlanSweep, part: str) -> set[str]:
    nodes = sweep.checked.node.nodes
    found, waiting = {part}, [part]
    while waiting:
        for value in nodes[waiting.pop()].inputs.values():
            for reference in [value] if isinstance(value, str) else value:
                if reference in nodes and reference not in found:
                    found.add(reference)
                    waiting.append(reference)
    return found


def _may_be_spared(sweep: PlanSweep, part: str) -> bool:
    """Whether trials may end before they make this node, stopped early or struck out."""
    settings = sweep.checked.node.sweep
    if any(constraint.check == "static" for constraint in settings.constraints):
        return True
    metric = settings.scheduler.metric or next(iter(settings.objectives))
    return settings.scheduler.kind != "none" and split_metric(metric)[0] in _with_above(sweep, part)


def _num_repeats(sweep: PlanSweep) -> int:
    finalists = sweep.checked.node.sweep.finalists
    return finalists.top * len(finalists.seeds) if finalists is not None else 0


def _merged(found: Iterable[Estimate | None]) -> Estimate | None:
    known = [estimate for estimate in found if estimate is not None]
    if not known:
        return None
    return Estimate(
        low_s=min(each.low_s for each in known),
        typical_s=sum(each.typical_s for each in known) / len(known),
        high_s=max(each.high_s for each in known),
        num_records=max(each.num_records for each in known),
    )
