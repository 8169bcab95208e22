"""Ray Tune as a library, and the only importer of `ray.tune` and Optuna: searchers TPE and NSGA-II, ASHA, median stopping.

No trial of Tune runs and Ray is not started. The searcher holds no state between suggestions: each asks a new `OptunaSearch`
with a sampler seeded by (seed, trial number) about a study made of all that was told, in the order of the numbers. So a search
that is rebuilt from its records proposes what the killed one would have proposed. It costs 0.02 ms per known trial.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from typing import Any

import optuna
from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from orchestrator.sweeps.scores import Scores
from orchestrator.sweeps.searcher import KnownValues, Suggestion, draw_unknown, seed_of
from orchestrator.sweeps.space import Space, values_text
from orchestrator.sweeps.stopping import Verdict, is_stopping_metric_maximized
from orchestrator.workflow.sweep_result import TrialRecord
from orchestrator.workflow.sweep_spec import Sweep

_ASKS = 4
"""Times that the sampler is asked again where it proposes what is known, before a point is drawn at random instead."""

_STUDY = "optuna"
"""The name that OptunaSearch looks for in the storage."""

_GENERATION = "NSGAIISampler:generation"
"""Where Optuna's NSGA-II keeps the generation of a trial, among the trial's system attributes."""

_WORST = -1e300
"""In place of NaN and infinities: percentiles are interpolated, and an infinity would make NaN of them."""

_RUNGS = 20
"""More than any training has, where its length is not known."""

_REPORT, _VALUE = "report", "value"

_State = optuna.trial.TrialState


class OptunaSearcher(KnownValues):
    """Optuna's TPE and NSGA-II, with one or more objectives, constraints, conditions and trials that were stopped early.

    A trial that lacks an objective, and a failed one, are told as FAIL. One that was stopped early is PRUNED with what it
    reported (with several objectives without: Optuna compares such trials by one only). One struck out by a static constraint
    is PRUNED with the violation. Parameters under a condition are sampled one by one by TPE; NSGA-II draws them at random.
    """

    def __init__(self, sweep: Sweep, *, seed: int, baselines: Mapping[str, Any]) -> None:
        super().__init__(Space(sweep.space))
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.sweep = sweep
        self.seed = seed
        self.scores = Scores(sweep, baselines)
        self._names = {name: self._categories(name) for name in self.space.order}
        self._distributions = {name: self._distribution(name) for name in self.space.order}
        self._frozen: dict[int, optuna.trial.FrozenTrial] = {}
        self._sign = 1.0  # of what a stopped trial reported, compared as if it were the objective
        if sweep.scheduler.kind != "none" and is_stopping_metric_maximized(sweep) != ("maximize" in sweep.objectives.values()):
            self._sign = -1.0

    def tell(self, record: TrialRecord) -> None:
        super().tell(record)
        self._frozen.pop(record.number, None)

    def suggest(self, number: int) -> Suggestion | None:
        if self.is_exhausted():
            return None
        for attempt in range(_ASKS):
            values = self._ask(number, attempt)
            if not self.is_known(values):
                return self.begin(number, values)
        drawn = draw_unknown(self, seed=self.seed, number=number)
        return None if drawn is None else self.begin(number, drawn)

    def _ask(self, number: int, attempt: int) -> dict[str, Any]:
        modes = ["max" if direction == "maximize" else "min" for direction in self.sweep.objectives.values()]
        names = list(self.sweep.objectives)
        searcher = OptunaSearch(
            space=self._define,
            metric=names if len(names) > 1 else names[0],
            mode=modes if len(modes) > 1 else modes[0],
            sampler=self._sampler(seed_of(self.seed, number, attempt)),
            storage=self._history(),
        )
        found = searcher.suggest(str(number))
        return self.space.fill(lambda name, _: self._value(name, found[name]))

    def _define(self, trial: Any) -> None:
        """The space in Optuna's define-by-run form: what is active depends on what was drawn before."""
        self.space.fill(lambda name, _: self._value(name, self._drawn(trial, name)))

    def _drawn(self, trial: Any, name: str) -> Any:
        match self._distributions[name]:
            case optuna.distributions.CategoricalDistribution() as found:
                return trial.suggest_categorical(name, found.choices)
            case optuna.distributions.IntDistribution() as found:
                return trial.suggest_int(name, found.low, found.high, step=found.step)
            case optuna.distributions.FloatDistribution() as found:
                return trial.suggest_float(name, found.low, found.high, step=found.step, log=found.log)

    def _sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        settings = self.sweep.sampler
        if settings.kind == "nsga2":
            return optuna.samplers.NSGAIISampler(population_size=settings.population, seed=seed)
        return optuna.samplers.TPESampler(n_startup_trials=settings.startup_trials, seed=seed)

    def _history(self) -> optuna.storages.BaseStorage:
        storage = optuna.storages.InMemoryStorage()
        study = optuna.create_study(storage=storage, study_name=_STUDY, directions=list(self.sweep.objectives.values()))
        complete = 0
        for number in sorted({*self.told, *self.open}):
            if number in self.open:
                study.add_trial(self._trial(_State.RUNNING, self.open[number]))
                continue
            trial = self._frozen.get(number) or self._frozen.setdefault(number, self._finished(self.told[number]))
            if trial.state == _State.COMPLETE:
                trial.system_attrs[_GENERATION] = complete // self.sweep.sampler.population
                complete += 1
            study.add_trial(trial)
        return storage

    def _finished(self, record: TrialRecord) -> optuna.trial.FrozenTrial:
        values = self.scores.objectives(record.metrics) if record.state == "done" else None
        violations = self.scores.violations(record)
        if values is not None:
            return self._trial(_State.COMPLETE, record.values, values=list(values), constraints=violations)
        if record.state == "stopped":
            reports = {step: self._sign * value for step, value in record.history} if len(self.sweep.objectives) == 1 else {}
            return self._trial(_State.PRUNED, record.values, intermediate_values=reports)
        if record.state == "infeasible":
            return self._trial(_State.PRUNED, record.values, constraints=violations)
        return self._trial(_State.FAIL, record.values)

    def _trial(self, state: optuna.trial.TrialState, settings: Mapping[str, Any], **more: Any) -> optuna.trial.FrozenTrial:
        trial = optuna.trial.create_trial(
            state=state,
            params={name: values_text(value) if self._names[name] else value for name, value in settings.items()},
            distributions={name: self._distributions[name] for name in settings},
            **more,
        )
        trial.__class__ = _KnownTrial
        return trial

    def _categories(self, name: str) -> tuple[str, ...]:
        """A choice may hold lists and mappings: Optuna is given texts."""
        if self.space.distributions[name].choice is None:
            return ()
        return tuple(dict.fromkeys(values_text(option) for option in self.space.options[name] or ()))

    def _value(self, name: str, found: Any) -> Any:
        if not self._names[name]:
            return self.space.canonical(name, found)
        return next(option for option in self.space.options[name] or () if values_text(option) == found)

    def _distribution(self, name: str) -> optuna.distributions.BaseDistribution:
        distribution, options = self.space.distributions[name], self.space.options[name]
        if self._names[name]:
            return optuna.distributions.CategoricalDistribution(self._names[name])
        if distribution.int is not None and options is not None:
            return optuna.distributions.IntDistribution(options[0], options[-1], step=int(distribution.step or 1))
        if options is not None:
            return optuna.distributions.FloatDistribution(options[0], options[-1], step=distribution.step)
        low, high = distribution.uniform or distribution.loguniform or (0.0, 0.0)
        return optuna.distributions.FloatDistribution(low, high, log=distribution.loguniform is not None)


class _KnownTrial(optuna.trial.FrozenTrial):
    """Put into each new study as it is: the copy in depth that a storage makes of each would be most of what a search costs."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _KnownTrial:
        return copy(self)


class TuneStopper:
    """One of Tune's trial schedulers, asked about trials that only it takes for trials. It pauses none."""

    def __init__(self, scheduler: TrialScheduler, *, is_maximized: bool) -> None:
        self._scheduler = scheduler
        self._sign = 1.0 if is_maximized else -1.0
        self._trials: dict[int, _Trial] = {}
        self._stopped: set[int] = set()

    def report(self, trial: int, report: int, value: float) -> Verdict:
        if trial not in self._stopped:  # else it reports once more before it has ended
            answer = self._scheduler.on_trial_result(_Controller(), self._trial(trial), self._result(report, value))
            if answer == TrialScheduler.STOP:
                self._stopped.add(trial)
        return Verdict.STOP if trial in self._stopped else Verdict.GO_ON

    def replay(self, record: TrialRecord) -> None:
        for report, value in record.history:
            self._scheduler.on_trial_result(_Controller(), self._trial(record.number), self._result(report, value))

    def ended(self, trial: int) -> None:
        """What it reported is still compared with."""

    def no_more(self, num_trials: int) -> None:
        """Nobody waits for a trial."""

    def decided(self) -> dict[int, Verdict]:
        return {}

    def _trial(self, number: int) -> _Trial:
        if number not in self._trials:
            self._trials[number] = _Trial(str(number))
            self._scheduler.on_trial_add(_Controller(), self._trials[number])
        return self._trials[number]

    def _result(self, report: int, value: float) -> dict[str, float]:
        turned = self._sign * value
        return {_REPORT: report, _VALUE: max(min(turned, -_WORST), _WORST) if not math.isnan(turned) else _WORST}


class AshaStopper(TuneStopper):
    """Asynchronous successive halving (arXiv 1810.05934): at each rung one of `reduction_factor` goes on.

    A trial is compared with those that reached the rung before it, the first never stops. There is no rung at the last report:
    what has been trained to the end is measured.
    """

    def __init__(self, *, grace: int, reduction_factor: int, longest: int | None, is_maximized: bool) -> None:
        last = max(grace, longest - 1) if longest else grace * reduction_factor**_RUNGS
        scheduler = AsyncHyperBandScheduler(
            time_attr=_REPORT,
            metric=_VALUE,
            mode="max",
            max_t=last,
            grace_period=grace,
            reduction_factor=reduction_factor,
            stop_last_trials=False,
        )
        super().__init__(scheduler, is_maximized=is_maximized)


class MedianStopper(TuneStopper):
    """Median stopping: a trial stops whose best so far is worse than the median of what the others averaged up to there."""

    def __init__(self, *, grace: int, min_trials: int, is_maximized: bool) -> None:
        scheduler = MedianStoppingRule(
            time_attr=_REPORT, metric=_VALUE, mode="max", grace_period=grace, min_samples_required=min_trials
        )
        super().__init__(scheduler, is_maximized=is_maximized)

    def replay(self, record: TrialRecord) -> None:
        for report, value in record.history:  # the hook that adds a result and decides nothing
            self._scheduler.on_trial_complete(_Controller(), self._trial(record.number), self._result(report, value))


class _Trial:
    """As much of Tune's Trial as its schedulers look at."""

    def __init__(self, trial_id: str) -> None:
        self.trial_id = trial_id
        self.status = "RUNNING"


class _Controller:
    """As much of Tune's controller: no trial waits for another's place."""

    def get_live_trials(self) -> list[_Trial]:
        return []
