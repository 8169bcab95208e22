"""Whole searches without an engine: every sampler with every stopper, one trial at a time and several, killed anywhere."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.sweeps.choice import choose
from orchestrator.sweeps.pareto import hypervolume
from orchestrator.sweeps.searcher import RUNNING, Suggestion, make_searcher, renumbered
from orchestrator.sweeps.space import values_text
from orchestrator.sweeps.stopping import Verdict, make_stopper
from orchestrator.workflow.sweep_result import TrialRecord
from orchestrator.workflow.sweep_spec import Sweep

REPORTS = 9
SPACE = {
    "train.lr": {"loguniform": (1e-4, 1.0)},
    "train.optimizer": {"choice": ("sgd", "adam")},
    "train.momentum": {"uniform": (0.0, 0.9), "step": 0.1, "when": {"train.optimizer": ("sgd",)}},
    "train.depth": {"int": (1, 4)},
}
FINITE = {name: found for name, found in SPACE.items() if name != "train.lr"}
SAMPLERS = ["grid", "random", "tpe", "nsga2", "pbt"]
STOPPERS = ["none", "asha", "hyperband", "median"]
PAIRS = [(sampler, stopper) for sampler in SAMPLERS for stopper in STOPPERS if (sampler, stopper) != ("pbt", "hyperband")]


def sweep_of(sampler: str, *, stopper: str = "none", trials: int = 20, space=None, **more) -> Sweep:
    return Sweep(
        **{
            "space": space or (FINITE if sampler == "grid" else SPACE),
            "objectives": {"score.loss": "minimize"},
            "trials": trials,
            "sampler": {"kind": sampler, "population": 4, "startup_trials": 5},
            "scheduler": {"kind": stopper, "metric": "score.loss"},
            **more,
        }
    )


def loss_of(values) -> float:
    """Smooth: best near a rate of 0.03, momentum of 0.6 and a depth of 3."""
    rate = math.log10(values.get("train.lr", 0.03)) + 1.5
    momentum = values.get("train.momentum", 0.2) - 0.6
    return rate**2 + momentum**2 + (values["train.depth"] - 3) ** 2 / 4


def fails(values) -> bool:
    return values["train.depth"] == 4 and values["train.optimizer"] == "adam"


class Loop:
    """What a driver does, in its plainest form: trials report in turn; a paused one gives its place away."""

    def __init__(self, sweep: Sweep, *, concurrency: int, records=(), seed: int = 7) -> None:
        self.sweep, self.concurrency = sweep, concurrency
        self.searcher = make_searcher(sweep, seed=seed, baselines={})
        self.stopper = make_stopper(sweep, longest=REPORTS)
        self.records = {record.number: record for record in self.searcher.warm_start(records)}
        for record in self.records.values():
            if self.stopper is not None:
                self.stopper.replay(record)
        self.running: dict[int, Suggestion] = {}
        self.paused: dict[int, Suggestion] = {}
        self.history: dict[int, list[tuple[int, float]]] = {}
        self.is_exhausted = False

    def start(self) -> None:
        while len(self.running) < self.concurrency and not self.is_exhausted:
            busy = {*self.records, *self.running, *self.paused}
            number = next((n for n in range(self.sweep.trials) if n not in busy), None)
            if number is not None and not self.searcher.is_ready(number):
                return
            suggestion = None if number is None else self.searcher.suggest(number)
            if suggestion is None:
                self.is_exhausted = True
                if self.stopper is not None:
                    self.stopper.no_more(max(busy, default=-1) + 1)
                return
            self.running[number] = suggestion
            self.history.setdefault(number, [])

    def end(self, number: int, suggestion: Suggestion, state: str) -> None:
        self.running.pop(number, None)
        self.paused.pop(number, None)
        value = loss_of(suggestion.values)
        self.records[number] = TrialRecord(
            number=number,
            values=suggestion.values,
            state=state,
            keys={"train": f"{values_text(suggestion.values)}-{suggestion.parent}"},
            metrics={"score.loss": value, "score.bytes": suggestion.values["train.depth"] * 10} if state == "done" else {},
            history=tuple(self.history[number]),
            parent=suggestion.parent,
        )
        self.searcher.tell(self.records[number])
        if self.stopper is not None:
            self.stopper.ended(number)

    def turn(self) -> bool:
        """Every running trial reports once; False where the search is over."""
        for number, verdict in (self.stopper.decided() if self.stopper is not None else {}).items():
            suggestion = self.paused.pop(number)
            if verdict is Verdict.GO_ON:
                self.running[number] = suggestion
            else:
                self.end(number, suggestion, "stopped")
        self.start()
        assert self.running or not self.paused, "paused trials wait for nobody"
        for number, suggestion in list(self.running.items()):
            if fails(suggestion.values):
                self.end(number, suggestion, "failed")
                continue
            report = len(self.history[number]) + 1
            value = loss_of(suggestion.values) + 2.0 / report
            self.history[number].append((report, value))
            verdict = self.stopper.report(number, report, value) if self.stopper is not None else Verdict.GO_ON
            if verdict is Verdict.STOP:
                self.end(number, suggestion, "stopped")
            elif verdict is Verdict.PAUSE:
                self.paused[number] = self.running.pop(number)
            elif report == REPORTS:
                self.end(number, suggestion, "done")
        return bool(self.running or self.paused) or not self.is_exhausted

    def finish(self) -> list[TrialRecord]:
        for _ in range(10_000):
            if not self.turn():
                return [self.records[number] for number in sorted(self.records)]
        raise AssertionError("the search does not end")


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize(("sampler", "stopper"), PAIRS)
def test_every_search_tries_what_it_was_asked_to_and_nothing_twice(sampler, stopper, concurrency):
    loop = Loop(sweep_of(sampler, stopper=stopper), concurrency=concurrency)
    records = loop.finish()
    assert [record.number for record in records] == list(range(20))
    assert all(loop.searcher.space.contains(record.values) for record in records)
    if sampler != "pbt":
        assert len({values_text(record.values) for record in records}) == 20
    if stopper != "none":
        assert any(record.state == "stopped" for record in records)
    best = choose(loop.sweep, records, baselines={}).best
    done = [record for record in records if record.state == "done"]
    assert best == min(done, key=lambda record: record.metrics["score.loss"]).number


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe", "nsga2"])
def test_a_finite_space_is_searched_to_its_end_and_no_further(sampler):
    loop = Loop(sweep_of(sampler, space=FINITE, trials=1000), concurrency=3)
    assert len(loop.finish()) == loop.searcher.space.size == 44


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(PAIRS), st.sampled_from([1, 4]), st.integers(0, 60), st.integers(0, 60)
)  # fmt: skip
def test_a_search_that_is_killed_anywhere_goes_on_and_repeats_no_finished_trial(kinds, concurrency, first, second):
    sampler, stopper = kinds
    sweep = sweep_of(sampler, stopper=stopper, trials=12)
    loop = Loop(sweep, concurrency=concurrency)
    for turns in (first, second):
        for _ in range(turns):
            if not loop.turn():
                break
        kept = [TrialRecord.from_data(json.loads(json.dumps(record.to_data()))) for record in loop.records.values()]
        loop = Loop(sweep, concurrency=concurrency, records=kept)
        assert len(loop.records) == len(kept)
    before = {values_text(record.values) for record in loop.records.values()}
    numbers = set(loop.records)
    records = loop.finish()
    assert [record.number for record in records] == list(range(12))
    if sampler != "pbt":
        assert before.isdisjoint(values_text(record.values) for record in records if record.number not in numbers)


@pytest.mark.parametrize("stopper", ["none", "asha", "median"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_at_a_time_a_killed_search_ends_as_if_it_had_not_been(sampler, stopper):
    """`max_concurrent: 1` makes a sweep repeatable to the bit."""
    sweep = sweep_of(sampler, stopper=stopper, trials=14)
    whole = Loop(sweep, concurrency=1).finish()
    for killed_after in (1, 5, 9, 13):
        assert Loop(sweep, concurrency=1, records=whole[:killed_after]).finish() == whole


PRINT = """
import json
from tests.sweeps.test_searches import Loop, sweep_of
for sampler in ("random", "tpe", "nsga2", "pbt"):
    more = {"score.bytes": "minimize"} if sampler == "nsga2" else {}
    sweep = sweep_of(sampler, trials=16, objectives={"score.loss": "minimize", **more})
    print(json.dumps([record.values for record in Loop(sweep, concurrency=3).finish()]))
"""


def test_a_new_process_proposes_the_same():
    """Hashes of texts differ between processes: nothing may depend on the order of a set."""
    root = str(Path(__file__).parents[2])
    found = [
        subprocess.run(
            [sys.executable, "-c", PRINT],
            capture_output=True, text=True, check=True, cwd=root,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert found[0] == found[1]
    assert len(found[0].splitlines()) == 4


def test_ray_optuna_and_the_rest_are_loaded_only_where_a_search_runs():
    """A cached plan must cost nothing."""
    heavy = ("ray", "optuna", "numpy", "pyarrow", "scipy", "torch")
    code = (
        "import sys\n"
        "from orchestrator.sweeps import choice, records, searcher, stopping\n"
        f"print(*[name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_tpe_finds_better_settings_than_chance():
    """A search that ignored what it was told would pass every other test."""
    space = {"train.lr": SPACE["train.lr"], "train.depth": {"int": (1, 3)}, "train.momentum": {"uniform": (0, 0.9)}}
    space |= {"train.optimizer": {"choice": ("sgd",)}}
    best = {}
    for sampler in ("random", "tpe"):
        runs = [Loop(sweep_of(sampler, space=space, trials=30), concurrency=1, seed=seed).finish() for seed in range(20)]
        best[sampler] = [min(record.metrics["score.loss"] for record in records) for records in runs]
    assert sum(best["tpe"]) < 0.5 * sum(best["random"])
    assert sum(tpe < chance for tpe, chance in zip(best["tpe"], best["random"], strict=True)) >= 14


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_searchers_learn_from_constraints(sampler):
    """Most trials would be spent where nothing can be chosen."""
    share = {}
    for limit in (10, 1000):
        sweep = sweep_of(sampler, trials=48, constraints=({"metric": "score.bytes", "max": limit},))
        runs = [Loop(sweep, concurrency=1, seed=seed).finish()[-24:] for seed in range(4)]
        share[limit] = sum(record.values["train.depth"] == 1 for records in runs for record in records) / 96
    assert share[10] > max(0.4, 2 * share[1000])


def test_nsga2_covers_more_of_the_trade_off_than_chance():
    areas = {"random": 0.0, "nsga2": 0.0}
    for sampler in areas:
        sweep = sweep_of(sampler, trials=80, objectives={"score.loss": "minimize", "score.bytes": "minimize"})
        sweep = sweep.model_copy(update={"sampler": sweep.sampler.model_copy(update={"population": 8})})
        for seed in range(6):
            records = Loop(sweep, concurrency=4, seed=seed).finish()
            points = [tuple(record.metrics.values()) for record in records if record.state == "done"]
            areas[sampler] += 30 - hypervolume(points, reference=(1, 40), directions=("minimize", "minimize"))
    assert areas["nsga2"] < 0.95 * areas["random"], areas


def test_trials_struck_out_by_a_static_constraint_steer_tpe_away():
    sweep = sweep_of("tpe", trials=40, constraints=({"metric": "score.bytes", "max": 10, "check": "static"},))
    kept = 0
    for seed in range(5):
        searcher = make_searcher(sweep, seed=seed)
        for number in range(40):
            values = searcher.suggest(number).values
            size = {"score.bytes": values["train.depth"] * 10}
            is_small = values["train.depth"] == 1
            state, loss = ("done", {"score.loss": loss_of(values)}) if is_small else ("infeasible", {})
            searcher.tell(TrialRecord(number=number, values=values, state=state, metrics=size | loss))
            kept += is_small and number >= 20
    assert kept > 0.4 * 5 * 20, kept  # by chance a quarter


def test_a_record_counts_where_its_values_lie_in_the_present_space():
    """Wider spaces and more trials start warm; narrower ones do not count what lies outside."""
    records = Loop(sweep_of("grid", trials=1000), concurrency=1).finish()
    narrow = {**FINITE, "train.depth": {"int": (1, 2)}}
    searcher = make_searcher(sweep_of("random", space=narrow), seed=0)
    taken = searcher.warm_start(records)
    assert {record.values["train.depth"] for record in taken} == {1, 2}
    assert searcher.suggest(40) is None
    wide = make_searcher(sweep_of("grid", space={**FINITE, "train.depth": {"int": (1, 5)}}), seed=0)
    assert len(wide.warm_start(records)) == 44
    assert wide.suggest(44).values["train.depth"] == 5


def test_two_records_with_one_number_are_told_apart():
    one, other = (TrialRecord(number=0, values={"train.depth": depth}, state="done") for depth in (1, 2))
    later = TrialRecord(number=1, values={"train.depth": 3}, state="done")
    assert [(record.number, record.values["train.depth"]) for record in renumbered([later, one, other])] == [
        (0, 1), (1, 3), (2, 2),
    ]  # fmt: skip


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe"])
def test_a_trial_that_a_killed_run_had_begun_is_not_proposed_a_second_time(sampler):
    sweep = sweep_of(sampler)
    begun = make_searcher(sweep, seed=0).suggest(0)
    searcher = make_searcher(sweep, seed=0)
    searcher.warm_start([TrialRecord(number=0, values=begun.values, state=RUNNING)])
    assert searcher.suggest(1).values != begun.values
    searcher.tell(TrialRecord(number=0, values=begun.values, state="done", metrics={"score.loss": 1.0}))
    assert searcher.suggest(2) is not None


def test_choices_that_are_lists_mappings_and_truths_are_proposed_as_they_are():
    options = ([1, 2], {"a": [1]}, True, "true", 1.5, None)
    for sampler in ("grid", "random", "tpe", "nsga2"):
        sweep = sweep_of(sampler, space={"train.x": {"choice": options}}, trials=6)
        searcher = make_searcher(sweep, seed=0)
        found = []
        for number in range(6):
            found.append(searcher.suggest(number).values)
            metrics = {"score.loss": number}
            searcher.tell(TrialRecord(number=number, values=found[-1], state="done", metrics=metrics))
        assert sorted(map(values_text, found)) == sorted(values_text({"train.x": option}) for option in options)
        assert searcher.suggest(6) is None


@pytest.mark.parametrize("objectives", [("score.loss",), ("score.loss", "score.bytes")])
@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_trials_that_reported_nan_or_nothing_do_not_stop_the_search(sampler, objectives):
    sweep = sweep_of(sampler, stopper="asha", objectives=dict.fromkeys(objectives, "minimize"))
    searcher = make_searcher(sweep, seed=0)
    for number in range(24):
        values = searcher.suggest(number).values
        state = ("done", "stopped", "failed", "infeasible", "done", "stopped")[number % 6]
        metrics = {"score.loss": math.nan} if number % 6 == 0 else {name: float(number) for name in objectives}
        history = ((1, math.nan),) if number % 12 == 1 else ((1, 0.5), (2, math.inf))
        searcher.tell(TrialRecord(number=number, values=values, state=state, metrics=metrics, history=history))
