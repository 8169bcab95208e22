"""How much the trials of a sweep share, counted before any of them runs: where the space has finitely many points."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.errors import PlanError
from orchestrator.workflow.plan import PlanSweep
from orchestrator.workflow.search_space import finite_values, num_values, points
from orchestrator.workflow.trials import plan_part

MAX_COUNTED = 20_000
"""Points of a space that are counted: a second at most."""


@dataclass(frozen=True)
class TrialCount:
    """The trials of a whole space: their nodes in sum, and how many of these differ by key."""

    trials: int
    nodes: int
    distinct: int

    @property
    def sharing(self) -> float:
        """How many trials use each node, on average."""
        return self.nodes / self.distinct if self.distinct else 1.0


def count_trials(sweep: PlanSweep) -> TrialCount | None:
    """Count the trials of every point of the space; None where a parameter is continuous or the points are too many.

    None too for population-based training, where a trial goes on from another. Points that a stage refuses do not count.
    """
    settings = sweep.checked.node.sweep
    numbers = [num_values(distribution) for distribution in settings.space.values()]
    if settings.sampler.kind == "pbt" or math.prod(number or MAX_COUNTED + 1 for number in numbers) > MAX_COUNTED:
        return None
    candidates = {name: finite_values(distribution) or () for name, distribution in settings.space.items()}
    counter = _Counter(sweep, candidates)
    counts = [found for point in points(settings.space, candidates) if (found := counter.nodes_of(point))]
    return TrialCount(trials=len(counts), nodes=sum(counts), distinct=len(counter.distinct))


class _Counter:
    """Keys of trials' nodes, each computed once for the values and inputs that make it: no label is part of a key."""

    def __init__(self, sweep: PlanSweep, candidates: Mapping[str, Sequence[object]]) -> None:
        self.sweep = sweep
        self.candidates = candidates
        self.distinct: set[str] = set()
        self._outer = {node.label: node.key for node in sweep.outer.values()}
        self._keys: dict[tuple[object, ...], str | None] = {}
        nodes = sweep.checked.node.nodes
        self._own = {part: [key for key in candidates if key.partition(".")[0] == part] for part in nodes}
        self._above = {
            part: [
                reference
                for value in nodes[part].inputs.values()
                for reference in ([value] if isinstance(value, str) else value)
                if reference in nodes
            ]
            for part in nodes
        }

    def nodes_of(self, point: dict[str, int]) -> int:
        """Number of nodes of the trial at a point; 0 where a stage refuses its values."""
        keys: dict[str, str] = {}
        for part in self.sweep.checked.order:
            chosen = tuple((key, point[key]) for key in self._own[part] if key in point)
            mark = (part, chosen, tuple(keys[above] for above in self._above[part]))
            if mark not in self._keys:
                self._keys[mark] = self._key(part, chosen, keys)
            key = self._keys[mark]
            if key is None:
                return 0
            keys[part] = key
        self.distinct.update(keys.values())
        return len(keys)

    def _key(self, part: str, chosen: Sequence[tuple[str, int]], keys: dict[str, str]) -> str | None:
        values = {name.partition(".")[2]: self.candidates[name][index] for name, index in chosen}
        known = {**self._outer, **{f"trial/{above}": key for above, key in keys.items()}}
        try:
            planned = plan_part(self.sweep.checked, part, trial="trial", values=values, outer=self.sweep.outer, keys=known)
        except PlanError:
            return None
        return planned.key
