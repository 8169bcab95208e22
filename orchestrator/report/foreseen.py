"""A plan as it may go on when its sweeps have ended: some of their trials, and the nodes that wait for a sweep's best.

Which values a search will try nobody knows before; here they are drawn evenly from its space. Keys are the real ones, so that
what trials share, and what the store holds already, is found out and not assumed. Reads only.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
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


def foreseen_trials(sweep: PlanSweep, number: int, *, artifacts: Artifacts, seed: int = 0) -> list[dict[str, PlanNode]]:
    """The nodes of so many trials by label, with status; fewer where the space has no more, none where stages refuse all."""
    settings = sweep.checked.node.sweep
    chance = random.Random(f"{seed} {sweep.name}")  # noqa: S311 - stands for a sampler that nobody can foresee
    found: list[dict[str, PlanNode]] = []
    num_refused = 0
    grid = _grid(sweep) if settings.sampler.kind == "grid" else None
    while len(found) < number and num_refused < MAX_REFUSED:
        if grid is not None:
            values = next(grid, None)
            if values is None:
                break
        else:
            values = {name: _draw(distribution, chance) for name, distribution in settings.space.items()}
        trial = trial_label(sweep.name, len(found))
        try:
            nodes = plan_trial(sweep.checked, trial=trial, values=values, outer=sweep.outer)
        except PlanError:
            num_refused += 1
            continue
        found.append(with_status(nodes, artifacts, outer=sweep.outer.values()))
    return found


def foreseen_rest(plan: Plan, artifacts: Artifacts) -> Plan:
    """The plan with every open sweep settled on its first foreseen trial: what waits for it has nodes then.

    The plan as it is where that cannot be foreseen.
    """
    results: dict[str, SweepResult] = {name: sweep.result for name, sweep in plan.sweeps.items() if sweep.result is not None}
    before = plan
    for _ in range(len(plan.checked.sweeps)):  # a sweep may wait for another one's best
        waiting = [sweep for sweep in open_sweeps(plan) if sweep.name not in results]
        if not waiting or not plan.later:
            return plan
        for sweep in waiting:
            values = _first_values(sweep)
            if values is None:
                return before
            results[sweep.name] = _settled_on(sweep, values)
        try:
            plan = make_plan(plan.checked, artifacts, selection=plan.selection, results=results)
        except OrchestratorError:
            return before
        settled = {name: replace(sweep, status=SweepStatus.SEARCH) for name, sweep in before.sweeps.items()}
        plan = replace(plan, sweeps={**plan.sweeps, **settled})
        before = plan
    return plan


def _first_values(sweep: PlanSweep) -> Mapping[str, Any] | None:
    """Values of a trial that its stages take."""
    chance = random.Random(sweep.name)  # noqa: S311 - one point of the space, whichever
    for _ in range(MAX_REFUSED):
        values = {name: _draw(distribution, chance) for name, distribution in sweep.checked.node.sweep.space.items()}
        try:
            plan_trial(sweep.checked, trial=trial_label(sweep.name, 0), values=values, outer=sweep.outer)
        except PlanError:
            continue
        return values
    return None


def _settled_on(sweep: PlanSweep, values: Mapping[str, Any]) -> SweepResult:
    settings = sweep.checked.node.sweep
    trial = TrialRecord(number=0, values=values, state="done")
    return SweepResult(
        trials=(trial,), front=(0,), best=0, verdict="foreseen", rule=settings.select.rule, objectives=settings.objectives
    )


def _grid(sweep: PlanSweep) -> Any:
    space = sweep.checked.node.sweep.space
    candidates = {name: finite_values(distribution) or () for name, distribution in space.items()}
    return ({name: candidates[name][index] for name, index in point.items()} for point in points(space, candidates))


def _draw(distribution: Distribution, chance: random.Random) -> Any:
    if distribution.int is not None and distribution.step is None:
        return chance.randint(*distribution.int)
    values = finite_values(distribution)
    if values is not None:
        return chance.choice(values)
    low, high = distribution.uniform or distribution.loguniform or (0.0, 1.0)
    return low * (high / low) ** chance.random() if distribution.loguniform is not None else chance.uniform(low, high)
