"""The guide of a run that has sweeps: begins each search when what it needs is there, plans what waits for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.engine.scheduler import Scheduler
from orchestrator.engine.units import State
from orchestrator.store.artifacts import Artifacts
from orchestrator.store.ledger import Ledger
from orchestrator.sweeps.search import Search
from orchestrator.workflow.plan import Plan, PlanSweep, SweepStatus
from orchestrator.workflow.settled import read_result
from orchestrator.workflow.sweep_result import SWEEP_STAGE, SweepResult

Replan = Callable[[Mapping[str, SweepResult]], Plan]
"""The plan of the whole workflow, given how its sweeps have ended so far."""


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What a search needs of the run that it is part of."""

    run: str
    artifacts: Artifacts
    ledger: Ledger
    clock: Callable[[], float]
    provenance: Mapping[str, Any]


class SweepGuide:
    """Drives the searches of one plan. `failures`: why sweeps failed; `results`: how the others ended."""

    def __init__(self, plan: Plan, *, context: RunContext, replan: Replan) -> None:
        self.context = context
        self.replan = replan
        self.results: dict[str, SweepResult] = {
            name: sweep.result for name, sweep in plan.sweeps.items() if sweep.result is not None
        }
        self.failures: dict[str, str] = {}
        self._waiting: dict[str, PlanSweep] = {}
        self._searches: dict[str, Search] = {}
        self._later: Mapping[str, str] = {}
        self._take(plan)

    @property
    def failure_text(self) -> str:
        """Why sweeps failed, in one line."""
        return "; ".join(f'sweep "{name}": {why}' for name, why in self.failures.items())

    def advance(self, scheduler: Scheduler) -> bool:
        """Begin, drive and settle searches; true while one is open."""
        settled = False
        for name in list(self._waiting):
            settled = self._begin(name, scheduler) or settled
        for name, search in list(self._searches.items()):
            search.advance(scheduler)
            if search.failure:
                self.failures[name] = search.failure
                scheduler.note("sweep_failed", sweep=name, error=search.failure)
                scheduler.fail()
                del self._searches[name]
            elif search.result is not None:
                self.results[name] = search.result
                del self._searches[name]
                settled = True
        if settled and not scheduler.is_ending:
            plan = self.replan(self.results)
            scheduler.add(plan.nodes.values())
            if plan.skipped:
                scheduler.note("names_skipped", why=dict(plan.skipped))
            self._take(plan)
        return bool(self._searches or self._waiting)

    def look(self, scheduler: Scheduler) -> None:
        """Stop trials early while a stage runs in the scheduler's own thread."""
        for search in self._searches.values():
            search.stop_early(scheduler)

    def _take(self, plan: Plan) -> None:
        self._later = plan.later
        for name, sweep in plan.sweeps.items():
            is_known = name in self.results or name in self.failures or name in self._searches
            if sweep.status is SweepStatus.SEARCH and not is_known:
                self._waiting[name] = sweep

    def _begin(self, name: str, scheduler: Scheduler) -> bool:
        """Start the search once all that it refers to is done; give it up where that cannot be.

        True where another run has settled it meanwhile.
        """
        sweep = self._waiting[name]
        states = {label: scheduler.units[label].state for label in sweep.after}
        if all(state is State.DONE for state in states.values()):
            del self._waiting[name]
            standing = self._settled_by_another(sweep)
            if standing is not None:
                self.results[name] = standing
                return True
            self._searches[name] = Search(sweep, context=self.context, scheduler=scheduler)
            return False
        lost = next((label for label, state in states.items() if state in LOST), None)
        if lost is not None:
            del self._waiting[name]
            scheduler.note("sweep_blocked", sweep=name, by=lost)
            if states[lost] is State.SKIPPED:
                waiting = [other for other, waits_for in self._later.items() if waits_for == name]
                why = {name: f"needs {lost}, which is skipped"} | dict.fromkeys(waiting, f"needs {name}, which is skipped")
                scheduler.note("names_skipped", why=why)
        return False

    def _settled_by_another(self, sweep: PlanSweep) -> SweepResult | None:
        if sweep.forced or sweep.record is not None:
            return None
        record = self.context.artifacts.find(SWEEP_STAGE, sweep.key)
        return read_result(record, self.context.artifacts) if record is not None else None


LOST = (State.FAILED, State.BLOCKED, State.SKIPPED, State.CANCELLED)
