"""A plan as it may go on when its sweeps have ended: some of their trials, and the nodes that wait for a sweep's best.

Which values a search will try nobody knows before; here they are drawn evenly from its space. Keys are the real ones, so that
what trials share, and what the store holds already, is found out and not assumed. Reads only.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import OrchestratorError, PlanError
from orchestrator.store.artifacts import Artifacts
from orchestrator.workflow.count import count_trials
from orchestrator.workflow.plan import Plan, PlanNode, PlanSweep, SweepStatus
from orchestrator.workflow.planning import make_plan
from orchestrator.workflow.search_space import finite_values, points
from orchestrator.workflow.statuses import with_status
from orchestrator.workflow.sweep_result import SweepResult, TrialRecord
from orchestrator.workflow.sweep_spec import Distribution
from orchestrator.workflow.trials import plan_trial, trial_label

MAX_REFUSED = 50
"""So many drawn combinations may be refused by a stage's settings before a sweep is given up as unforeseeable."""


def open_sweeps(plan: Plan) -> list[PlanSweep]:
    """The sweeps that will search."""
    return [sweep for sweep in plan.sweeps.values() if sweep.status is SweepStatus.SEARCH]


def num_trials(sweep: PlanSweep, artifacts: Artifacts) -> tuple[int, int] | None:
    """How many trials a sweep will have in all, and how many of them earlier runs have begun; None for a grid without end."""
    settings = sweep.checked.node.sweep
    count = count_trials(sweep) if settings.trials is None or settings.sampler.kind == "grid" else None
    number = settings.trials
    if count is not None:
        number = count.trials if number is None else min(number, count.trials)
    if number is None:
        return None
    begun = 0 if sweep.forced else sum(1 for _ in artifacts.store.list(f"sweeps/{sweep.family}"))
    return number, min(begun, number)


@dataclass(frozen=True)
class Foreseen:
    """How a plan may go on.

    Attributes:
        plan: with nodes for what waits for a sweep's best: there the sweeps are settled on their first foreseen trial.
        sweeps: those that will search, by name; also those that wait for another one's best.
        trials: of each, the nodes of the foreseen trials by label, with status.
    """

    plan: Plan
    sweeps: Mapping[str, PlanSweep]
    trials: Mapping[str, Sequence[Mapping[str, PlanNode]]]


def foresee(plan: Plan, artifacts: Artifacts, *, most_trials: int | None = None, seed: int = 0) -> Foreseen:
    """Foresee a plan with at most so many trials of each sweep. What cannot be foreseen stays LATER in it."""
    results = {name: sweep.result for name, sweep in plan.sweeps.items() if sweep.result is not None}
    sweeps: dict[str, PlanSweep] = {}
    trials: dict[str, list[dict[str, PlanNode]]] = {}
    for _ in range(len(plan.checked.sweeps) + 1):  # a sweep may wait for another one's best
        new = [sweep for sweep in open_sweeps(plan) if sweep.name not in sweeps]
        for sweep in new:
            numbers = num_trials(sweep, artifacts)
            left = numbers[0] - numbers[1] if numbers is not None else most_trials or 0
            drawn = list(_draw_trials(sweep, max(1, left if most_trials is None else min(left, most_trials)), seed=seed))
            sweeps[sweep.name] = sweep
            trials[sweep.name] = [with_status(nodes, artifacts, outer=sweep.outer.values()) for _, nodes in drawn]
            if drawn:
                results[sweep.name] = _settled_on(sweep, drawn[0][0])
        if not plan.later or not any(trials[sweep.name] for sweep in new):
            break
        try:
            plan = make_plan(plan.checked, artifacts, selection=plan.selection, results=results)
        except OrchestratorError:
            break
    return Foreseen(plan, sweeps, trials)


def _draw_trials(sweep: PlanSweep, number: int, *, seed: int) -> Iterator[tuple[Mapping[str, Any], dict[str, PlanNode]]]:
    """Values and nodes of so many trials; fewer where the space has no more, none where stages refuse all that is drawn."""
    settings = sweep.checked.node.sweep
    chance = random.Random(f"{seed} {sweep.name}")  # noqa: S311 - stands for a sampler that nobody can foresee
    grid = _grid(sweep) if settings.sampler.kind == "grid" else None
    num_made = num_refused = 0
    while num_made < number and num_refused < MAX_REFUSED:
        values = next(grid, None) if grid is not None else _draw_values(settings.space, chance)
        if values is None:
            return
        try:
            nodes = plan_trial(sweep.checked, trial=trial_label(sweep.name, num_made), values=values, outer=sweep.outer)
        except PlanError:
            num_refused += 1
            continue
        num_made += 1
        yield values, nodes


def _settled_on(sweep: PlanSweep, values: Mapping[str, Any]) -> SweepResult:
    settings = sweep.checked.node.sweep
    trial = TrialRecord(number=0, values=values, state="done")
    return SweepResult(
        trials=(trial,), front=(0,), best=0, verdict="foreseen", rule=settings.select.rule, objectives=settings.objectives
    )


def _grid(sweep: PlanSweep) -> Iterator[Mapping[str, Any]]:
    space = sweep.checked.node.sweep.space
    candidates = {name: finite_values(distribution) or () for name, distribution in space.items()}
    return ({name: candidates[name][index] for name, index in point.items()} for point in points(space, candidates))


def _draw_values(space: Mapping[str, Distribution], chance: random.Random) -> dict[str, Any]:
    return {name: _draw(distribution, chance) for name, distribution in space.items()}


def _draw(distribution: Distribution, chance: random.Random) -> Any:
    if distribution.int is not None and distribution.step is None:
        return chance.randint(*distribution.int)
    values = finite_values(distribution)
    if values is not None:
        return chance.choice(values)
    low, high = distribution.uniform or distribution.loguniform or (0.0, 1.0)
    return low * (high / low) ** chance.random() if distribution.loguniform is not None else chance.uniform(low, high)
