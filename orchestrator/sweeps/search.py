"""One search in a running scheduler: proposes trials as nodes, stops them early, records how they end, settles.

Knows neither samplers nor statistics: it asks the searcher what to try, the stopper whom to stop, and `choice` which is best.
How trials become nodes is `trial_plans`', what earlier searches have left `known_trials`'.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestrator.engine.progress import EpochReports
from orchestrator.engine.scheduler import Scheduler
from orchestrator.engine.units import GroupState
from orchestrator.errors import PlanError
from orchestrator.store.artifacts import record_mark
from orchestrator.sweeps import constraints
from orchestrator.sweeps.choice import choose, finalists
from orchestrator.sweeps.known_trials import KnownTrials, last_reported, stopping_rule
from orchestrator.sweeps.records import TrialLog, publish
from orchestrator.sweeps.repeats import Repeats
from orchestrator.sweeps.running_trial import Trial, first_error, seconds_made
from orchestrator.sweeps.scores import Scores
from orchestrator.sweeps.searcher import RUNNING, Suggestion, make_searcher
from orchestrator.sweeps.stopping import Verdict, make_stopper, stopping_metric
from orchestrator.sweeps.trial_plans import Nodes, TrialPlans, keys_of
from orchestrator.workflow.plan import PlanSweep
from orchestrator.workflow.references import split_metric
from orchestrator.workflow.settled import read_result
from orchestrator.workflow.sweep_result import SweepResult, TrialRecord
from stages.contract import Throttle

if TYPE_CHECKING:
    from orchestrator.sweeps.driver import RunContext
    from orchestrator.sweeps.forecast import Forecaster


class Search:
    """A sweep that is being searched. It has ended when `result` or `failure` is set."""

    def __init__(self, sweep: PlanSweep, *, context: RunContext, scheduler: Scheduler) -> None:
        self.sweep = sweep
        self.settings = sweep.checked.node.sweep
        self.context = context
        self.result: SweepResult | None = None
        self.failure = ""
        self.records: dict[int, TrialRecord] = {}
        self._began_s = context.clock()
        self._live: dict[int, Trial] = {}
        self._repeats: Repeats | None = None
        self._resuming: deque[Trial] = deque()  # paused, and may go on when there is room
        self._lowest_free = 0
        self._num_failures = 0
        self._is_exhausted = False
        self._is_stopped = False
        self._look_for_stop = Throttle(1.0)
        self._log = TrialLog(context.artifacts.store, sweep.family)
        self._plans = TrialPlans(sweep, context.artifacts)
        self._baselines = self._read_baselines(scheduler)
        self._scores = Scores(self.settings, self._baselines)
        self._forecaster: Forecaster | None = None
        self._stopping_metric = stopping_metric(self.settings)
        self._stopping = stopping_rule(self.settings)
        self._reports = EpochReports(context.ledger, run=context.run)
        self._known = KnownTrials(
            settings=self.settings,
            scores=self._scores,
            plans=self._plans,
            artifacts=context.artifacts,
            ledger=context.ledger,
        )
        seed = sweep.checked.seed if self.settings.seed is None else self.settings.seed
        self._searcher = make_searcher(self.settings, seed=seed, baselines=self._baselines)
        self._stopper = make_stopper(self.settings, longest=self._longest_training())
        self._begun_before: list[TrialRecord] = []
        self._start_warm()
        scheduler.note("sweep_started", sweep=sweep.name, key=sweep.key, trials=self.settings.trials, known=len(self.records))
        for record in self.records.values():
            self._note_ended(record, scheduler, is_known=True)

    def advance(self, scheduler: Scheduler) -> None:
        """Take in what has happened, propose what there is room for, settle where all has ended."""
        self.stop_early(scheduler)
        for trial in list(self._live.values()):
            self._take_in(trial, scheduler)
        if scheduler.is_ending:
            return
        if not self._is_stopped and self._look_for_stop.ready():
            self._is_stopped = self.context.ledger.is_sweep_stop_asked(self.context.run, self.sweep.name)
        self._resume_decided(scheduler)
        self._propose(scheduler)
        if self._live or self._has_more():
            return
        if self._has_failed:
            failed = [trial for trial in self.records.values() if trial.state == "failed"]
            self.failure = (
                f"{self._num_failures} of {len(self.records)} trials failed, more than max_failures "
                f"{self.settings.max_failures}; the last: {failed[-1].error}"
            )
            return
        self._settle(scheduler)

    def stop_early(self, scheduler: Scheduler) -> None:
        """Read what running trials report and abandon those that the stopper gives up."""
        if self._stopper is None:
            return
        part, metric = split_metric(self._stopping_metric)
        running = {trial.label(part): trial for trial in self._live.values() if not trial.is_paused and not trial.is_stopped}
        folders = {label: scheduler.folder_of(label) for label in running}
        for report in self._reports.read(folders):
            if metric in report.metrics:
                value = report.metrics[metric]
                running[report.label].unheard.append((report.epoch, float("nan") if value is None else float(value)))
        for trial in running.values():
            while trial.unheard and not trial.is_paused and not trial.is_stopped:
                self._hear(trial, *trial.unheard.popleft(), scheduler)

    def _hear(self, trial: Trial, epoch: int, value: float, scheduler: Scheduler) -> None:
        assert self._stopper is not None
        trial.history.append((epoch, value))
        verdict = self._stopper.report(trial.number, epoch, value)
        if verdict is not Verdict.GO_ON and scheduler.group_state(trial.group) is GroupState.RUNNING:
            trial.is_stopped, trial.is_paused = verdict is Verdict.STOP, verdict is Verdict.PAUSE
            scheduler.abandon(trial.group)

    # Beginning

    def _read_baselines(self, scheduler: Scheduler) -> dict[str, Any]:
        found = {}
        for constraint in self.settings.constraints:
            if constraint.versus:
                reference, metric = split_metric(constraint.versus)
                found[constraint.versus] = scheduler.metrics_of(self.sweep.outer[reference].label).get(metric)
        return found

    def _longest_training(self) -> int | None:
        """Epochs of the longest training that can be stopped early; None where the stage has no such setting."""
        if self.settings.scheduler.kind == "none":
            return None
        part = split_metric(self._stopping_metric)[0]
        searched = self.settings.space.get(f"{part}.epochs")
        if searched is not None:
            bounds = searched.choice or searched.int or searched.uniform or searched.loguniform or ()
            return int(max(bounds))
        spec, node = self.sweep.checked.specs[part], self.sweep.checked.node.nodes[part]
        field_info = spec.settings.model_fields.get("epochs")
        value = node.params.get("epochs", field_info.default if field_info is not None else None)
        return int(value) if isinstance(value, int | float) else None

    def _start_warm(self) -> None:
        if self.sweep.forced:
            return
        for record in self._known.tell(self._log.read_all(), self._searcher):
            if record.state == RUNNING:
                self._begun_before.append(record)
                continue
            self.records[record.number] = record
            self._num_failures += record.state == "failed"
            if self._stopper is not None:
                self._stopper.replay(record)
                self._stopper.ended(record.number)

    # Proposing

    @property
    def _has_failed(self) -> bool:
        return self._num_failures > self.settings.max_failures

    def _has_more(self) -> bool:
        if self._is_stopped or self._has_failed:
            return False
        if self._begun_before:
            return True
        return not self._is_exhausted and (self.settings.trials is None or self._next_number() < self.settings.trials)

    def _next_number(self) -> int:
        """The lowest number that no trial has; one that a trial has it keeps."""
        while self._lowest_free in self.records or self._lowest_free in self._live:
            self._lowest_free += 1
        return self._lowest_free

    def _propose(self, scheduler: Scheduler) -> None:
        while self._has_more() and not self._is_full(scheduler):
            if self._begun_before:
                record = self._begun_before.pop(0)
                number, suggestion = record.number, Suggestion(values=record.values, parent=record.parent)
            else:
                number = self._next_number()
                if not self._searcher.is_ready(number):
                    return
                found = self._searcher.suggest(number)
                if found is None:
                    self._is_exhausted = True
                    break
                suggestion = found
            self._start(number, suggestion, scheduler)
        if not self._has_more() and self._stopper is not None:
            self._stopper.no_more(max([*self.records, *self._live], default=-1) + 1)

    def _is_full(self, scheduler: Scheduler) -> bool:
        running = sum(not trial.is_paused or scheduler.is_stopping(trial.group) for trial in self._live.values())
        room = scheduler.room_for([node.resources for node in self.sweep.checked.node.nodes.values()])
        return running >= (room if self.settings.max_concurrent is None else self.settings.max_concurrent)

    def _start(self, number: int, suggestion: Suggestion, scheduler: Scheduler) -> None:
        group, parent = self._plans.group(number), suggestion.parent
        record = TrialRecord(number=number, values=suggestion.values, state=RUNNING, parent=parent)
        try:
            nodes = self._plans.plan(number, suggestion.values, parent=parent)
        except PlanError as error:  # each value is legal, and the stage refuses them together
            self._end(replace(record, state="failed", error=error.message), scheduler)
            return
        self._plans.remember(number, nodes, parent=parent)
        record = replace(record, keys=keys_of(nodes))
        forecast = self._static_metrics(nodes, parent)
        violated = self._scores.struck_out(forecast)
        if violated:
            self._end(replace(record, state="infeasible", metrics=forecast, violated=violated), scheduler)
            return
        self._log.write(record)
        self._live[number] = Trial(number=number, group=group, suggestion=suggestion, nodes=nodes)
        values = dict(suggestion.values)
        scheduler.note("trial_started", sweep=self.sweep.name, trial=group, number=number, values=values, parent=parent)
        self._plans.join(nodes, scheduler, group=group, parent=parent)

    def _static_metrics(self, nodes: Nodes, parent: int | None) -> Mapping[str, Any]:
        if not any(constraint.check == "static" for constraint in self.settings.constraints):
            return {}
        if self._forecaster is None:
            from orchestrator.sweeps.forecast import Forecaster

            self._forecaster = Forecaster(self.context.artifacts)
        return self._forecaster.of_trial(nodes, self._plans.around(parent))

    def _resume_decided(self, scheduler: Scheduler) -> None:
        """Let paused trials go on where there is room, or end them, as a synchronous stopper decides."""
        for number, verdict in (self._stopper.decided() if self._stopper is not None else {}).items():
            trial = self._live[number]
            if verdict is Verdict.STOP:
                trial.is_paused, trial.is_stopped = False, True
                self._take_in(trial, scheduler)
            else:
                self._resuming.append(trial)
        while self._resuming and not self._is_full(scheduler):
            trial = self._resuming.popleft()
            trial.is_paused = False
            self._plans.join(trial.nodes, scheduler, group=trial.group, parent=trial.suggestion.parent)

    # Ending

    def _take_in(self, trial: Trial, scheduler: Scheduler) -> None:
        is_given_up = scheduler.is_given_up(trial.group)
        if is_given_up:
            trial.is_paused, trial.is_stopped = False, True
        state = scheduler.group_state(trial.group)
        if state is GroupState.RUNNING or trial.is_paused:
            return
        if state is GroupState.CANCELLED and not trial.is_stopped:
            return  # the run is being stopped; the trial goes on when it is submitted again
        if trial.is_stopped and scheduler.is_stopping(trial.group):
            return  # what it has cost is not known yet, and its place is not free
        record = TrialRecord(
            number=trial.number,
            values=trial.suggestion.values,
            state={GroupState.DONE: "done", GroupState.FAILED: "failed"}.get(state, "stopped"),
            keys=keys_of(trial.nodes),
            metrics=self._metrics_of(trial.group, scheduler),
            history=tuple(trial.history),
            stopping=self._stopping,
            parent=trial.suggestion.parent,
            seconds=seconds_made(trial, scheduler),
        )
        if record.state == "failed":
            record = replace(record, error=first_error(trial, scheduler))
        elif record.state == "done":
            record = self._measured(record, trial)
        else:
            record = replace(record, metrics={**record.metrics, **last_reported(record)})
        self._end(record, scheduler, is_kept=not is_given_up or record.state != "stopped")

    def _measured(self, record: TrialRecord, trial: Trial) -> TrialRecord:
        """A trial that ran to its end, as far as it has all objectives."""
        if self._stopper is not None and not record.history:  # another run has made its training
            record = replace(record, history=self._known.history(trial.nodes))
            for report, value in record.history:
                self._stopper.report(record.number, report, value)
        for name in self.settings.objectives:
            if constraints.number(record.metrics.get(name)) is None:
                found = f"is {record.metrics[name]}" if record.metrics.get(name) is not None else "was not reported"
                return replace(record, state="failed", error=f"objective {name} {found}")
        return replace(record, violated=self._scores.violated(record.metrics))

    def _end(self, record: TrialRecord, scheduler: Scheduler, *, is_kept: bool = True) -> None:
        """Count a trial as ended. One that a person gave up is not kept for later searches: they go on with it."""
        self._live.pop(record.number, None)
        self.records[record.number] = record
        self._num_failures += record.state == "failed"
        if is_kept:
            self._log.write(record)
        self._searcher.tell(record)
        if self._stopper is not None:
            self._stopper.ended(record.number)
        self._note_ended(record, scheduler)

    def _note_ended(self, record: TrialRecord, scheduler: Scheduler, *, is_known: bool = False) -> None:
        scheduler.note(
            "trial_ended",
            known=is_known,  # ended in an earlier run
            sweep=self.sweep.name,
            trial=self._plans.group(record.number),
            number=record.number,
            values=dict(record.values),
            state=record.state,
            metrics={name: record.metrics.get(name) for name in self.settings.objectives},
            violated=list(record.violated),
            error=record.error,
        )

    def _metrics_of(self, group: str, scheduler: Scheduler) -> dict[str, Any]:
        return {
            f"{part}.{name}": value
            for part in self.sweep.checked.order
            for name, value in scheduler.metrics_of(f"{group}/{part}").items()
        }

    def _settle(self, scheduler: Scheduler) -> None:
        """Run the finalists' repeats, then state the result and make it an artifact."""
        trials = [self.records[number] for number in sorted(self.records)]
        if self._repeats is None:
            self._repeats = Repeats(self._plans, self._metrics_of)
            if self.settings.finalists is not None:
                chosen = [self.records[number] for number in finalists(self.settings, trials, baselines=self._baselines)]
                self._repeats.begin(chosen, seeds=self.settings.finalists.seeds, scheduler=scheduler)
        if not self._repeats.have_ended(scheduler):
            return
        result = choose(
            self.settings,
            trials,
            baselines=self._baselines,
            repeats=self._repeats.metrics(scheduler),
            found=self._seconds_found(scheduler),
        )
        if self._is_stopped:
            of = f" of {self.settings.trials}" if self.settings.trials is not None else ""
            text = f"Stopped after {len(trials)}{of} trials; --rerun {self.sweep.name} tries the rest, and repeats none."
            result = replace(result, verdict=f"{result.verdict} {text}")
        standing = publish(
            self.context.artifacts,
            result,
            key=self.sweep.key,
            identity=self.sweep.identity,
            label=self.sweep.name,
            run=self.context.run,
            seconds=self.context.clock() - self._began_s,
            provenance=self.context.provenance,
            stopping_metric=self._stopping_metric,
            replaces=record_mark(self.sweep.record) if self.sweep.record is not None else "",
        )
        if standing.run != self.context.run:  # another run that searched the same was first: what it says stands
            result = read_result(standing, self.context.artifacts) or result
        scheduler.note(
            "sweep_settled",
            sweep=self.sweep.name,
            key=self.sweep.key,
            best=result.best,
            front=list(result.front),
            verdict=result.verdict,
            spent_s=result.spent_s,
            avoided_s=result.avoided_s,
        )
        self.result = result

    def _seconds_found(self, scheduler: Scheduler) -> dict[str, float]:
        """Seconds of nodes that this run did not make, by key: hits."""
        prefix = f"{self.sweep.name}/"
        return {
            unit.node.key: unit.cost_s
            for label, unit in scheduler.units.items()
            if label.startswith(prefix) and unit.cost_s and not unit.spent_s
        }
