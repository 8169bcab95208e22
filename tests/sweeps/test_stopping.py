"""Early stopping: each rule against a slow and obvious one, and a killed run against one that was not."""

from __future__ import annotations

import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import PlanError
from orchestrator.sweeps.stopping import HyperBandStopper, Verdict, bands, make_stopper, stopping_metric
from orchestrator.workflow.sweep_result import TrialRecord
from orchestrator.workflow.sweep_spec import Sampler, Sweep

GO_ON, STOP, PAUSE = Verdict.GO_ON, Verdict.STOP, Verdict.PAUSE


def sweep_of(kind: str, *, trials: int = 9, mode: str = "maximize", **settings) -> Sweep:
    return Sweep(
        space={"a.x": {"uniform": (0, 1)}},
        objectives={"a.score": mode},
        trials=trials,
        scheduler={"metric": "a.score", **settings, "kind": kind},
    )


def ended(number: int, history, state: str = "stopped") -> TrialRecord:
    return TrialRecord(number=number, values={}, state=state, history=tuple(history))


class SlowAsha:
    """A rung holds what came there; a newcomer stops below the (1 - 1/eta) quantile of those before it."""

    def __init__(self, grace: int, eta: int, longest: int) -> None:
        self.eta = eta
        self.rungs = [(grace * eta**k, {}) for k in range(20) if grace * eta**k < longest]

    def report(self, trial: int, report: int, value: float) -> Verdict:
        passed = [(rung, found) for rung, found in self.rungs if rung <= report]
        if not passed or trial in passed[-1][1]:
            return GO_ON
        before = sorted(passed[-1][1].values())
        worth = -1e300 if math.isnan(value) else value
        passed[-1][1][trial] = worth
        if not before:
            return GO_ON
        place = (1 - 1 / self.eta) * (len(before) - 1)
        low, high = before[math.floor(place)], before[math.ceil(place)]
        return STOP if worth < low + (high - low) * (place - math.floor(place)) else GO_ON


@given(
    st.integers(1, 3), st.integers(2, 4), st.integers(2, 30), st.integers(1, 12), st.randoms(use_true_random=False)
)  # fmt: skip
def test_asha_decides_as_a_slow_obvious_one_does(grace, eta, longest, num_trials, source):
    """Good trials would be lost, or nothing saved."""
    if longest <= grace:
        return
    stopper = make_stopper(sweep_of("asha", grace=grace, reduction_factor=eta), longest=longest)
    slow = SlowAsha(grace, eta, longest)
    running = dict.fromkeys(range(num_trials), 0)
    while running:
        trial = source.choice(sorted(running))
        running[trial] += 1
        value = source.choice([math.nan, source.random(), source.random(), source.random()])
        verdict = stopper.report(trial, running[trial], value)
        assert verdict == slow.report(trial, running[trial], value)
        if verdict is STOP or running[trial] == longest:
            del running[trial]


def test_asha_has_no_rung_at_the_last_report():
    """What was trained to the end would be thrown away unmeasured."""
    stopper = make_stopper(sweep_of("asha", reduction_factor=3), longest=9)
    for trial, value in enumerate((0.9, 0.8, 0.1)):
        assert stopper.report(trial, 9, value) in {GO_ON, STOP}  # counts at the rung of 3
    fresh = make_stopper(sweep_of("asha", reduction_factor=3), longest=9)
    for trial in range(3):
        fresh.report(trial, 1, 0.5)
        fresh.report(trial, 3, 0.5)
    assert [fresh.report(trial, 9, 0.5 - trial / 10) for trial in range(3)] == [GO_ON] * 3


def test_asha_minimizes_where_the_objective_is_minimized():
    stopper = make_stopper(sweep_of("asha", mode="minimize"), longest=20)
    assert [stopper.report(trial, 1, value) for trial, value in enumerate((0.5, 0.9, 0.1))] == [GO_ON, STOP, GO_ON]


@pytest.mark.parametrize("kind", ["asha", "median", "hyperband"])
@pytest.mark.parametrize("mode", ["maximize", "minimize"])
def test_nan_is_worse_than_any_number(kind, mode):
    """A diverged trial would train to its end, or be taken for the best."""
    stopper = make_stopper(sweep_of(kind, trials=4, mode=mode, reduction_factor=2, min_trials=2), longest=4)
    for trial, value in enumerate((0.2, 0.3, 0.4)):
        stopper.report(trial, 1, value)
    assert stopper.report(3, 1, math.nan) is STOP


def test_median_stops_what_is_worse_than_the_median_of_the_running_means():
    stopper = make_stopper(sweep_of("median", grace=2, min_trials=3), longest=10)
    source = random.Random(1)
    curves = {trial: [source.random() for _ in range(6)] for trial in range(12)}
    for trial, curve in curves.items():
        best = -math.inf
        for report, value in enumerate(curve, start=1):
            best = max(best, value)
            others = [curves[other] for other in range(trial) if len(curves[other]) >= report >= 2]
            means = [statistics.fmean(other[1:report]) for other in others]
            expected = STOP if len(means) >= 3 and best < statistics.median(means) else GO_ON
            assert stopper.report(trial, report, value) is expected, (trial, report)
            if expected is STOP:
                curves[trial] = curve[:report]
                break
    assert {len(curve) for curve in curves.values()} > {6}  # some were stopped, some were not


def test_a_stopped_trial_that_reports_once_more_is_stopped_again():
    """The worker sees the stop a report later."""
    for kind in ("asha", "median", "hyperband"):
        stopper = make_stopper(sweep_of(kind, trials=3, min_trials=2, reduction_factor=3), longest=9)
        for trial, value in enumerate((0.8, 0.9)):
            stopper.report(trial, 1, value)
        assert stopper.report(2, 1, 0.1) is STOP
        assert stopper.report(2, 2, 0.95) is STOP


def test_hyperband_has_the_brackets_of_its_paper():
    """Table 1 of the paper: R = 81, eta = 3."""
    found = bands(longest=81, grace=1, reduction_factor=3)
    assert [len(bracket.members) for bracket in found] == [81, 34, 15, 8, 5]
    assert [bracket.rungs for bracket in found] == [(1, 3, 9, 27), (3, 9, 27), (9, 27), (27,), ()]


def test_hyperband_stops_nobody_before_the_grace():
    assert all(rung >= 4 for bracket in bands(longest=50, grace=4, reduction_factor=2) for rung in bracket.rungs)


def test_hyperband_pauses_until_all_have_come_and_names_who_goes_on():
    stopper = HyperBandStopper(trials=9, longest=9, grace=1, reduction_factor=3, is_maximized=True)
    assert [stopper.report(trial, 1, trial / 10) for trial in range(8)] == [PAUSE] * 8
    assert stopper.decided() == {}
    assert stopper.report(8, 1, 0.05) is STOP
    assert stopper.decided() == dict.fromkeys(range(5), STOP) | {5: GO_ON, 6: GO_ON, 7: GO_ON}
    assert stopper.decided() == {}
    assert [stopper.report(trial, 3, value) for trial, value in ((5, 0.9), (6, 0.8), (7, 0.7))] == [PAUSE, PAUSE, STOP]
    assert stopper.decided() == {5: GO_ON, 6: STOP}


def test_hyperband_does_not_wait_for_trials_that_failed_or_never_come():
    """All others of the bracket would stay paused for ever."""
    stopper = HyperBandStopper(trials=100, longest=9, grace=1, reduction_factor=3, is_maximized=True)
    for trial in range(6):
        assert stopper.report(trial, 1, trial) is PAUSE
    stopper.ended(6)
    assert stopper.decided() == {}
    stopper.no_more(7)
    assert stopper.decided() == dict.fromkeys(range(4), STOP) | {4: GO_ON, 5: GO_ON}  # 7 came: 7 // 3 go on
    assert stopper.report(4, 3, 1.0) is PAUSE
    stopper.ended(5)
    assert stopper.decided() == {4: GO_ON}


@given(st.integers(1, 25), st.integers(1, 3), st.integers(2, 3), st.integers(1, 12), st.randoms(use_true_random=False))
def test_hyperband_ends_every_trial_whoever_fails(num_trials, grace, eta, longest, source):
    stopper = HyperBandStopper(trials=num_trials, longest=longest, grace=grace, reduction_factor=eta, is_maximized=True)
    waiting, running, paused, done = list(range(num_trials)), {}, set(), set()
    reports = dict.fromkeys(range(num_trials), 0)
    while waiting or running or paused:
        for trial, verdict in stopper.decided().items():
            paused.discard(trial)
            if verdict is GO_ON:
                running[trial] = True
            else:
                stopper.ended(trial)
        while waiting and len(running) < 2:
            running[waiting.pop(0)] = True
        assert running, (paused, stopper)
        trial = source.choice(sorted(running))
        if source.random() < 0.1:
            del running[trial]
            stopper.ended(trial)
            continue
        reports[trial] += 1
        verdict = stopper.report(trial, reports[trial], source.random())
        if verdict is PAUSE:
            del running[trial]
            paused.add(trial)
        elif verdict is STOP or reports[trial] == longest:
            del running[trial]
            done.add(trial)
            stopper.ended(trial)


@pytest.mark.parametrize("kind", ["asha", "median", "hyperband"])
def test_a_stopper_that_is_told_the_records_decides_as_the_killed_one_would_have(kind):
    """After a kill other trials would be stopped than without it."""
    for seed in range(20):
        source = random.Random(seed)
        sweep = sweep_of(kind, trials=14, grace=2, reduction_factor=2, min_trials=2)
        first, second = make_stopper(sweep, longest=12), make_stopper(sweep, longest=12)
        history: dict[int, list] = {trial: [] for trial in range(10)}
        running = set(history)
        while running:
            for trial in sorted(running):
                value = source.random()
                report = len(history[trial]) + 1
                history[trial].append((report, value))
                verdict = first.report(trial, report, value)
                if verdict is STOP or report == 12:
                    running.discard(trial)
                    first.ended(trial)
                elif verdict is PAUSE:
                    running.discard(trial)
            for trial, verdict in first.decided().items():
                if verdict is GO_ON:
                    running.add(trial)
                else:
                    first.ended(trial)
            if not running:
                for trial in range(10):
                    first.ended(trial)
        order = list(history)
        source.shuffle(order)
        for trial in order:
            second.replay(ended(trial, history[trial]))
        for trial in range(10, 14):
            for report in range(1, 12):
                value = source.random()
                verdict = first.report(trial, report, value)
                assert verdict is second.report(trial, report, value)
                if verdict is not GO_ON:
                    break
        assert first.decided() == second.decided()


def test_hyperband_with_population_based_training_is_refused():
    """They would wait for each other for ever."""
    sweep = sweep_of("hyperband").model_copy(update={"sampler": Sampler(kind="pbt")})
    with pytest.raises(PlanError, match="wait for each other"):
        make_stopper(sweep, longest=9)


def test_hyperband_has_to_know_how_long_a_training_is():
    with pytest.raises(PlanError, match=r"that of a\.score is not known"):
        make_stopper(sweep_of("hyperband"))


def test_the_only_objective_stops_trials_where_no_metric_is_named():
    sweep = sweep_of("asha", mode="minimize", metric="")
    assert stopping_metric(sweep) == "a.score"
    stopper = make_stopper(sweep)
    assert [stopper.report(trial, 1, value) for trial, value in enumerate((0.1, 0.5))] == [GO_ON, STOP]


def test_no_stopper_where_none_is_asked_for_or_the_training_is_shorter_than_its_grace():
    assert make_stopper(sweep_of("none")) is None
    assert make_stopper(sweep_of("asha", grace=5), longest=5) is None
