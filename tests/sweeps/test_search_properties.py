"""Searches of every kind on machines of every size, in virtual time: all end, and every trial is accounted for."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.engine.scheduler import RunOptions
from orchestrator.engine.units import State
from orchestrator.engine.work import Ending
from orchestrator.sweeps.search import Search
from sweeps.search_kit import BEST, NUM_EPOCHS, workflow
from sweeps.virtual_search import ended_trials, plain, search_virtually, started_trials

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
NODES = {
    "prepare": "{stage: probe.echo, inputs: {inputs: base}}",
    "tune": "{stage: probe.sleep, inputs: {inputs: prepare}}",
    "score": "{stage: probe.echo, inputs: {inputs: [tune, prepare]}, params: {value: score}}",
}
VALUES: list[Any] = [0.1, 0.9, 0.3, 0.7, 0.5, "ValueError", "RuntimeError", 0.2]


@st.composite
def searches(draw: Any) -> dict[str, Any]:
    kind = draw(st.sampled_from(["none", "asha", "hyperband", "median"]))
    sampler = draw(st.sampled_from(["grid", "random", "tpe"]))
    space = {
        "prepare.value": {"choice": draw(st.sampled_from([["a"], ["a", "b"], ["a", "b", "c"]]))},
        "tune.value": {"choice": draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=6, unique_by=str))},
    }
    return {
        "sampler": sampler,
        "space": space,
        "trials": draw(st.integers(1, 12)),
        "max_concurrent": draw(st.sampled_from([None, 1, 2, 5])),
        "max_failures": draw(st.sampled_from([0, 2, 20])),
        "scheduler": {
            "kind": kind,
            "metric": "tune.value",
            "grace": draw(st.integers(1, 3)),
            "reduction_factor": draw(st.integers(2, 3)),
            "min_trials": 2,
        },
    }


def sound(settings: Mapping[str, Any], state: State, machine: Any, guide: Any) -> None:
    """All that must hold of a search that was not stopped."""
    ended = Counter(ended_trials(machine))
    assert set(started_trials(machine)) == set(ended)
    assert set(ended.values()) <= {1}
    made = Counter(execution.label for execution in machine.executions if execution.ending is Ending.DONE)
    assert max(made.values()) == 1
    if settings["max_concurrent"] is not None:
        assert machine.trials_at_once <= settings["max_concurrent"]
    if guide.failures:
        assert state is State.FAILED
        failed = [event for event in machine.events if event["type"] == "trial_ended" and event["state"] == "failed"]
        assert len(failed) > settings["max_failures"]
        return
    assert state is State.DONE
    result = guide.results["search"]
    size = len(settings["space"]["prepare.value"]["choice"]) * len(settings["space"]["tune.value"]["choice"])
    assert [trial.number for trial in result.trials] == list(range(min(size, settings["trials"])))
    assert {trial.state for trial in result.trials} <= {"done", "failed", "stopped"}
    if any(trial.state == "done" for trial in result.trials):
        assert result.best is not None
        assert machine.runs_of("final")


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    search=searches(),
    slots=st.sampled_from([1, 2, 3, 64]),
    speeds=st.integers(1, 9),
    given_up=st.none() | st.tuples(st.floats(0.1, 20.0), st.sampled_from(["search/t0000", "search/t0002"])),
)
def test_every_search_ends_with_every_trial_accounted_for(
    search: dict[str, Any], slots: int, speeds: int, given_up: tuple[float, str] | None
) -> None:
    """No deadlock, whatever fails, is stopped, given up or waits for others; no node is made twice; no more than allowed."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, patch.object(Search, "_longest_training", lambda _: NUM_EPOCHS):
        text = workflow(settings=search, nodes=NODES, after=BEST)
        state, machine, guide = search_virtually(
            text, Path(folder), slots=slots, seconds=lambda key: (int(key[:4], 16) % speeds) / 3, given_up=given_up
        )
        sound(search, state, machine, guide)


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(search=searches(), slots=st.sampled_from([1, 2, 64]), stops=st.lists(st.floats(0.1, 20.0), min_size=1, max_size=3))
def test_every_search_goes_on_after_stops(search: dict[str, Any], slots: int, stops: list[float]) -> None:
    """Stopped at any moments, one trial at a time: the same trials, the same ends, the same best; nothing is made twice."""
    search = {**search, "max_concurrent": 1}
    text = workflow(settings=search, nodes=NODES, after=BEST)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder, patch.object(Search, "_longest_training", lambda _: NUM_EPOCHS):
        machine = None
        for moment in sorted(stops):
            _, machine, _ = search_virtually(text, Path(folder), slots=slots, machine=machine, cancel_after_s=moment)
        _, machine, guide = search_virtually(text, Path(folder), slots=slots, machine=machine)
        made = Counter(execution.label for execution in machine.executions if execution.ending is Ending.DONE)
        assert max(made.values()) == 1
        _, _, undisturbed = search_virtually(text, Path(folder) / "undisturbed", slots=slots)
    assert guide.failures.keys() == undisturbed.failures.keys()
    if guide.results and undisturbed.results:
        result, other = guide.results["search"], undisturbed.results["search"]
        assert (result.best, result.front) == (other.best, other.front)
        assert [plain(trial) for trial in result.trials] == [plain(trial) for trial in other.trials]


@pytest.mark.parametrize(("cpus", "slots", "expected"), [(1, 4, 4), (2, 4, 2), (4, 4, 1), (1, 1, 1), (1, 64, 8)])
def test_as_many_trials_run_at_once_as_the_machine_has_room_for(folder, cpus: int, slots: int, expected: int) -> None:
    """Derived from what the largest node of a trial asks for."""
    nodes = {**NODES, "tune": f"{{stage: probe.sleep, inputs: {{inputs: prepare}}, resources: {{cpus: {cpus}}}}}"}
    search = {"sampler": "random", "trials": 8, "max_concurrent": None, "space": {"tune.value": {"uniform": [0, 1]}}}
    state, machine, _ = search_virtually(workflow(settings=search, nodes=nodes), folder, slots=slots)
    assert state is State.DONE
    assert machine.trials_at_once == expected


def test_a_shared_stage_runs_on_while_one_trial_wants_it_and_not_when_none_does(folder) -> None:
    """Two searches train the same; one gives it up, the other does not; then both do."""
    rule = {"kind": "asha", "metric": "tune.value", "grace": 1, "reduction_factor": 2}
    space = {"tune.value": {"choice": [0.9, 0.1]}}
    nodes = {"tune": "{stage: probe.sleep, inputs: {inputs: base}}"}
    base = {"sampler": "grid", "trials": None, "space": space, "max_concurrent": 1}
    for other in ({}, {"scheduler": rule, "seed": 4}):
        text = workflow(settings={**base, "scheduler": rule}, nodes=nodes)
        more = workflow(settings={**base, **other}, nodes=nodes, name="second").splitlines()[4:]
        place = folder / f"{len(other)}"
        state, machine, guide = search_virtually(text + "\n".join(more) + "\n", place, slots=8)
        assert state is State.DONE
        ends = [execution for execution in machine.executions if execution.label.endswith("t0001/tune")]
        assert [trial.state for trial in guide.results["search"].trials] == ["done", "stopped"]
        if other:
            assert [execution.ending for execution in ends] == [Ending.CANCELLED]
            assert ends[0].ended_s - ends[0].began_s < 2
        else:
            assert [trial.state for trial in guide.results["second"].trials] == ["done", "done"]
            assert [execution.ending for execution in ends if execution.ending is not Ending.SHARED][-1] is Ending.DONE


def test_a_failed_search_lets_the_rest_go_on_only_where_asked(folder) -> None:
    """As for a node that fails."""
    settings = {"sampler": "grid", "trials": None, "space": {"tune.value": {"choice": ["ValueError", 0.1]}}, "max_failures": 0}
    names = ["base", *(f"c{number}" for number in range(9))]
    chain = "\n".join(f"{name}: {{stage: probe.echo, inputs: {{inputs: {before}}}}}" for before, name in pairwise(names))
    text = workflow(settings=settings, nodes=NODES, after=chain)
    for keep_going in (False, True):
        state, machine, _ = search_virtually(
            text, folder / str(keep_going), options=RunOptions(keep_going=keep_going), seconds=lambda _key: 1.0
        )
        assert state is State.FAILED
        assert bool(machine.runs_of("c8")) is keep_going


def test_the_cost_per_trial_does_not_grow_with_their_number(folder) -> None:
    """Four times as many trials take four times as long, within what a busy machine blurs."""
    seconds = {}
    nodes = {"one": "{stage: probe.echo, inputs: {inputs: base}}", "two": "{stage: probe.echo, inputs: {inputs: one}}"}
    for trials in (250, 1000):
        search = {
            "sampler": "random", "trials": trials, "objectives": {"two.value": "maximize"}, "max_concurrent": None,
            "space": {"one.value": {"uniform": [0, 1]}, "two.value": {"uniform": [0, 1]}},
        }  # fmt: skip
        before_s = time.process_time()
        state, _, guide = search_virtually(workflow(settings=search, nodes=nodes), folder / str(trials), slots=8)
        seconds[trials] = time.process_time() - before_s
        assert state is State.DONE
        assert len(guide.results["search"].trials) == trials
    assert seconds[1000] / seconds[250] < 10, seconds  # quadratic work would make it 16


def test_no_report_is_lost_that_came_with_the_one_that_paused_a_trial(folder) -> None:
    """A training that goes on after a kill tells several epochs at once; the rung after the pause needs its own."""
    settings = {"sampler": "grid", "trials": 2, "space": {"tune.value": {"choice": [0.1, 0.05]}}}
    rule = {"kind": "hyperband", "metric": "tune.value", "grace": 1, "reduction_factor": 2}
    text = workflow(settings={**settings, "scheduler": rule}, nodes=NODES)
    with patch.object(Search, "_longest_training", lambda _: NUM_EPOCHS):
        _, machine, _ = search_virtually(text, folder, cancel_after_s=4.0)
        machine.saved = {key: max(epochs, 3) for key, epochs in machine.saved.items()}
        _, _, guide = search_virtually(text, folder, machine=machine)
    assert [step for step, _ in guide.results["search"].trials[0].history] == list(range(1, NUM_EPOCHS + 1))


def test_a_trial_that_a_person_gave_up_counts_as_stopped_and_a_later_search_goes_on_with_it(folder) -> None:
    """It was in the way today; that says nothing about it for whoever searches the same again."""
    text = workflow(settings={"sampler": "grid", "trials": None, "space": {"tune.value": {"choice": [0.9, 0.1]}}}, after=BEST)
    state, _, guide = search_virtually(text, folder, given_up=(3.0, "search/t0000"))
    assert state is State.DONE
    assert [trial.state for trial in guide.results["search"].trials] == ["stopped", "done"]
    assert guide.results["search"].best == 1
    more = text.replace("[0.9, 0.1]", "[0.9, 0.1, 0.2]")
    assert more != text
    _, machine, guide = search_virtually(more, folder)
    assert started_trials(machine)[0] == 0
    assert [trial.state for trial in guide.results["search"].trials] == ["done", "done", "done"]
