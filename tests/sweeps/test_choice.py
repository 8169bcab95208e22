"""Which trial is best, how sure that is, and what a search has saved."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from scipy import stats

from orchestrator.sweeps.choice import choose, finalists, interval
from orchestrator.sweeps.cost import cost
from orchestrator.workflow.sweep_result import SweepResult, TrialRecord
from orchestrator.workflow.sweep_spec import Sweep

ACCURACY, SIZE = "score.top1_accuracy", "score.size_bytes"


def sweep_of(**more) -> Sweep:
    space = {"lbc.sparsity": {"uniform": (0, 1)}}
    return Sweep(**{"space": space, "objectives": {ACCURACY: "maximize", SIZE: "minimize"}, "trials": 9, **more})


def trial(number: int, accuracy: float | None, size: float = 100, state: str = "done") -> TrialRecord:
    return TrialRecord(number=number, values={}, state=state, metrics={ACCURACY: accuracy, SIZE: size})


TRIALS = [trial(0, 0.99, 400), trial(1, 0.985, 100), trial(2, 0.97, 60), trial(3, 0.5, 50), trial(4, 0.98, 200)]


@pytest.mark.parametrize(
    ("select", "best"),
    [
        ({"rule": "best"}, 0),
        ({"rule": "best", "metric": SIZE}, 3),
        ({"rule": "knee"}, 2),
        ({"rule": "smallest_within", "metric": SIZE, "tolerance": 0.02}, 2),
        ({"rule": "smallest_within", "metric": SIZE, "tolerance": 0.005}, 1),
        ({"rule": "smallest_within", "metric": SIZE, "tolerance": 0.001}, 0),
    ],
)
def test_each_rule_chooses_its_own_best(select, best):
    result = choose(sweep_of(select=select), TRIALS, baselines={})
    assert result.best == best
    assert result.front == (0, 1, 2, 3)
    assert result.verdict.startswith(f"t000{best} is best by ")
    assert "no interval can be given" in result.verdict


def test_a_trial_that_breaks_a_constraint_is_neither_best_nor_in_the_front():
    sweep = sweep_of(
        constraints=[{"metric": ACCURACY, "max_drop": 0.01, "versus": "pretrain.top1_accuracy"}], select={"rule": "knee"}
    )
    result = choose(sweep, TRIALS, baselines={"pretrain.top1_accuracy": 0.99})
    assert result.best == 0  # both of a front of two are equally near to the ideal: the first objective decides
    assert result.front == (0, 1)
    assert "0.01 below the lowest allowed 0.98" in result.trials[2].violated[0]
    assert result.trials[0].violated == ()


def test_stopped_failed_and_unmeasured_trials_are_never_best():
    """What a stopped trial last reported is no result."""
    trials = [
        trial(0, 0.999, state="stopped"),
        trial(1, None),
        trial(2, math.nan),
        trial(3, 0.7),
        trial(4, 0.9, state="failed"),
    ]
    assert choose(sweep_of(), trials, baselines={}).best == 3


def test_where_none_meets_the_constraints_the_nearest_is_named():
    sweep = sweep_of(constraints=[{"metric": ACCURACY, "min": 0.995}, {"metric": SIZE, "max": 80}])
    result = choose(sweep, TRIALS, baselines={})
    assert result.best is None
    assert result.front == ()
    assert result.verdict == (
        f"None of 5 trials meets the constraints. Nearest was t0002: {ACCURACY} 0.97 is 0.025 below the lowest allowed 0.995."
    )


def test_where_nothing_was_measured_the_endings_are_counted():
    result = choose(sweep_of(), [trial(0, None, state="failed"), trial(1, None, state="stopped")], baselines={})
    assert result.verdict == "No trial was measured in all objectives: 1 stopped, 1 failed."
    assert choose(sweep_of(), [], baselines={}).verdict == "No trial was measured in all objectives: none was tried."


def test_finalists_are_the_best_by_the_rule():
    assert finalists(sweep_of(), TRIALS, baselines={}) == []
    sweep = sweep_of(finalists={"top": 3, "seeds": (1, 2)})
    assert finalists(sweep, TRIALS, baselines={}) == [0, 1, 4]
    assert finalists(sweep_of(select={"rule": "knee"}, finalists={"top": 2, "seeds": (1,)}), TRIALS, baselines={}) == [2, 1]


def repeats(*accuracies: float | None) -> tuple[dict, ...]:
    return tuple({} if accuracy is None else {ACCURACY: accuracy, SIZE: 100} for accuracy in accuracies)


FINAL = {"finalists": {"top": 3, "seeds": (1, 2, 3)}}


def test_the_winner_is_told_from_finalists_by_differences_paired_by_seed():
    """Seeds that are hard for all would hide a difference that each of them shows."""
    found = {0: repeats(0.90, 0.80, 0.70), 1: repeats(0.921, 0.820, 0.719), 4: repeats(0.93, 0.81, 0.71)}
    result = choose(sweep_of(**FINAL), TRIALS, baselines={}, repeats=found)
    assert result.best == 1
    assert result.ties == (4,)
    half = stats.t.ppf(0.975, 2) * stats.sem([0.021, 0.020, 0.019])
    assert f"Told apart: t0000 (difference -0.02 ± {half:.2g})" in result.verdict
    assert "Not told apart from it: t0004" in result.verdict
    assert "mean of 3 further seeds with its 95% interval" in result.verdict
    assert result.repeats == found


def test_a_few_equal_differences_are_no_certainty():
    """Two seeds that both differ by one image have no spread; what they would differ by next is anyone's guess."""
    found = {0: repeats(0.900, 0.910), 1: repeats(0.898, 0.908)}
    assert choose(sweep_of(**FINAL), TRIALS, baselines={}, repeats=found).ties == (1,)
    many = {0: repeats(*[0.9] * 5), 1: repeats(*[0.8] * 5)}
    assert choose(sweep_of(**FINAL), TRIALS, baselines={}, repeats=many).ties == ()


def test_one_further_seed_gives_no_interval():
    result = choose(sweep_of(**FINAL), TRIALS, baselines={}, repeats={0: repeats(0.9), 1: repeats(0.8)})
    assert (result.best, result.ties) == (0, (1,))
    assert "no interval can be given" in result.verdict


def test_a_failed_repeat_drops_its_pair_only():
    found = {0: repeats(0.9, 0.91, None), 1: repeats(0.8, 0.81, 0.99)}
    result = choose(sweep_of(**FINAL), TRIALS, baselines={}, repeats=found)
    assert result.best == 0
    assert "t0001 (difference -0.1 ± " in result.verdict


def test_a_finalist_that_breaks_a_constraint_over_further_seeds_is_passed_over():
    """The seed that chose it was a lucky one."""
    sweep = sweep_of(**FINAL, constraints=[{"metric": ACCURACY, "min": 0.96}])
    found = {0: repeats(0.95, 0.94, 0.96), 1: repeats(0.97, 0.97, 0.98)}
    result = choose(sweep, TRIALS, baselines={}, repeats=found)
    assert result.best == 1
    assert f"Passed over for the constraints: t0000: {ACCURACY} 0.95 is 0.01 below" in result.verdict
    none = choose(sweep, TRIALS, baselines={}, repeats={0: repeats(0.9, 0.9)})
    assert none.best is None
    assert none.verdict.startswith("No finalist meets the constraints over further seeds. t0000: ")


def test_intervals_are_those_of_students_t():
    figures = [0.91, 0.92, 0.95, 0.9]
    low, high = stats.t.interval(0.95, 3, loc=sum(figures) / 4, scale=stats.sem(figures))
    found = interval(figures)
    assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))
    assert interval([0.5]).half_width is None


def test_a_result_survives_its_file():
    result = choose(sweep_of(**FINAL), TRIALS, baselines={}, repeats={0: repeats(0.9, 0.8)})
    read = SweepResult.from_data(result.to_data())
    assert read.to_data() == result.to_data()


def test_the_saving_holds_distinct_nodes_against_nodes_per_trial():
    """24 trials, 6 h of pretraining shared, 3 settings of a warm-up of 1 h, and 0.6 h of their own: 182.4 h against 23.4 h."""
    trials = []
    for number in range(24):
        keys = {"pretrain": "p", "warm": f"w{number % 3}", "tune": f"t{number}", "score": f"s{number}"}
        hours = {f"t{number}": 0.5, f"s{number}": 0.1} | ({"p": 6.0} if number == 0 else {})
        hours |= {f"w{number % 3}": 1.0} if number < 3 else {}
        trials.append(replace(trial(number, 0.9), keys=keys, seconds=hours))
    found = cost(trials)
    assert found.spent_s == pytest.approx(23.4)
    assert found.avoided_s == pytest.approx(182.4 - 23.4)
    assert found.saving == pytest.approx(1 - 23.4 / 182.4)
    assert found.factor == pytest.approx(182.4 / 23.4)
    assert cost([]).factor == 1.0


def test_what_was_in_the_store_before_is_avoided_and_not_spent():
    trials = [
        replace(trial(number, 0.9), keys={"a": "old", "b": f"b{number}"}, seconds={f"b{number}": 1.0}) for number in range(2)
    ]
    found = cost(trials, found={"old": 10.0})
    assert (found.spent_s, found.avoided_s) == (2.0, 20.0)


def test_a_trial_that_was_struck_out_saves_nothing():
    """It ran nothing, and would have run nothing by itself: its nodes must not swell what sharing has saved."""
    made = replace(trial(0, 0.9), keys={"a": "shared", "b": "b0"}, seconds={"shared": 10.0, "b0": 1.0})
    struck = replace(trial(1, 0.9), state="infeasible", keys={"a": "shared", "b": "b1"})
    assert cost([made, struck]) == cost([made])
    assert cost([made, struck]).avoided_s == 0.0
