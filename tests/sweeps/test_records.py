"""What is kept of a search: the log of its trials, its artifact, and the table of what the trials reported."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.store.artifacts import Artifacts, Record, record_mark
from orchestrator.store.local import LocalStore
from orchestrator.sweeps.history import read_history, write_history
from orchestrator.sweeps.records import TrialLog, publish, trial_id
from orchestrator.workflow.settled import RESULT_FILE
from orchestrator.workflow.sweep_result import SweepResult, TrialRecord


def read_result(artifacts: Artifacts, made: Record) -> SweepResult:
    return SweepResult.from_data(json.loads(artifacts.open(made).file(RESULT_FILE).read_text()))


KEY = "0123456789abcdef0123456789abcdef"


def record(number: int = 0, state: str = "done", **more) -> TrialRecord:
    defaults = {"values": {"a.x": number}, "keys": {"a": f"key{number}"}, "metrics": {"a.loss": 0.5}}
    return TrialRecord(**{"number": number, "state": state, **defaults, **more})


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_what_was_written_is_read_again_in_the_order_of_numbers(store):
    """A killed search would begin from nothing."""
    log = TrialLog(store, "family")
    for number in (11, 2, 5):
        log.write(record(number, history=((1, 0.5), (2, math.inf)), seconds={"k": 1.5}, parent=1))
    assert log.read_all() == [
        record(number, history=((1, 0.5), (2, math.inf)), seconds={"k": 1.5}, parent=1) for number in (2, 5, 11)
    ]
    assert TrialLog(store, "other").read_all() == []


@pytest.mark.parametrize("earlier", ["running", "stopped", "failed"])
def test_a_trial_that_went_on_after_all_replaces_what_was_written_of_it(store, earlier):
    log = TrialLog(store, "family")
    log.write(record(state=earlier))
    log.write(record(state="done"))
    assert [found.state for found in log.read_all()] == ["done"]


def test_a_trial_that_is_done_stands_for_ever(store):
    log = TrialLog(store, "family")
    log.write(record(state="done"))
    assert log.write(record(state="stopped")).state == "done"
    assert [found.state for found in log.read_all()] == ["done"]


def test_damaged_files_are_passed_over_and_written_anew(store):
    """A torn file must cost one trial, not the search."""
    log = TrialLog(store, "family")
    good, torn, foreign, misplaced = record(0), record(1), record(2), record(3)
    log.write(good)
    store.create(f"sweeps/family/{trial_id(torn)}.json", b'{"number": 1, "val')
    store.create(f"sweeps/family/{trial_id(foreign)}.json", b"[1, 2]")
    store.create(f"sweeps/family/{trial_id(misplaced)}.json", b'{"number": 3, "values": {}, "state": "done"}')
    store.create("sweeps/family/notes.txt", b"hello")
    assert log.read_all() == [good]
    log.write(torn)
    assert log.read_all() == [good, torn]


def test_a_trial_is_what_its_keys_and_its_parent_are(store):
    assert trial_id(record(0)) == trial_id(replace(record(0), state="failed", values={}))
    assert trial_id(record(0)) != trial_id(replace(record(0), number=9)), "two members of a generation may do the same"
    assert trial_id(record(0)) != trial_id(record(0, parent=3))
    assert trial_id(record(0)) != trial_id(record(1))


def result(verdict: str = "t0000 is best") -> SweepResult:
    trials = (record(0, history=((1, math.nan), (2, 0.5))), record(1, state="failed", metrics={}, error="boom"))
    return SweepResult(
        trials=trials, front=(0,), best=0, verdict=verdict, rule="best", objectives={"a.loss": "minimize"},
        repeats={0: ({"a.loss": 0.4},)}, spent_s=2.0, avoided_s=6.0,
    )  # fmt: skip


def test_a_published_search_is_read_again_and_leaves_no_work_behind(store):
    artifacts = Artifacts(store)
    made = publish(
        artifacts,
        result(),
        key=KEY,
        identity={"stage": "sweep"},
        label="search",
        run="r",
        seconds=2.0,
        provenance={"commit": "c"},
    )
    assert (made.stage, made.kind, made.label) == ("sweep", "sweep", "search")
    assert made.metrics == {
        "num_trials": 2, "num_done": 1, "num_stopped": 0, "num_failed": 1, "num_infeasible": 0, "best": 0, "a.loss": 0.5,
    }  # fmt: skip
    assert made.provenance["commit"] == "c"
    found = artifacts.find("sweep", KEY)
    assert found == made
    read = read_result(artifacts, found)
    assert math.isnan(read.trials[0].history[0][1])
    assert replace(read.trials[1], violated=()) == result().trials[1]
    assert (read.best, read.repeats, read.avoided_s) == (0, {0: ({"a.loss": 0.4},)}, 6.0)
    assert set(found.files) == {"sweep.json", "trials.parquet"}
    assert list(store.workspaces("attempts")) == []


def test_the_first_publisher_of_a_search_wins(store):
    artifacts = Artifacts(store)
    arguments = {"key": KEY, "identity": {}, "label": "search", "run": "r", "seconds": 1.0, "provenance": {}}
    first = publish(artifacts, result("first"), **arguments)
    assert publish(artifacts, result("second"), **arguments) == first
    assert read_result(artifacts, artifacts.find("sweep", KEY)).verdict == "first"
    publish(artifacts, result("anew"), **arguments, replaces=record_mark(first))
    assert read_result(artifacts, artifacts.find("sweep", KEY)).verdict == "anew"


def test_the_table_has_a_row_per_trial_metric_and_step(tmp_path):
    trials = [
        record(
            0, values={"a.x": 1, "a.mode": "fast", "a.layers": [1, 2], "a.lr": 1}, history=((1, 0.9), (2, math.nan)),
            metrics={"a.loss": 0.5, "b.note": "text"}, seconds={"key0": 3.5},
        ),
        record(1, values={"a.x": 2, "a.layers": "all", "a.lr": 0.5}, state="failed", metrics={}, parent=0),
    ]  # fmt: skip
    write_history(tmp_path / "trials.parquet", trials, stopping_metric="a.accuracy")
    rows = read_history(tmp_path / "trials.parquet")
    assert [(row["trial"], row["metric"], row["step"], row["value"]) for row in rows] == [
        (0, "accuracy", 1, 0.9), (0, "accuracy", 2, None), (0, "loss", None, 0.5), (1, None, None, None),
    ]  # fmt: skip
    first, last = rows[0], rows[-1]
    assert (first["node"], first["state"], first["seconds"], first["key"]) == ("a", "done", 3.5, "key0")
    assert (first["param:a.x"], first["param:a.mode"], first["param:a.layers"], first["param:a.lr"]) == (
        1,
        "fast",
        "[1, 2]",
        1.0,
    )
    assert (last["param:a.mode"], last["param:a.layers"], last["state"], last["parent"]) == (None, '"all"', "failed", 0)


def test_a_search_without_trials_has_an_empty_table(tmp_path):
    write_history(tmp_path / "trials.parquet", [])
    assert read_history(tmp_path / "trials.parquet") == []
