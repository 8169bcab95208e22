"""How searches end: constraints that nothing meets, finalists, a search made anew or stopped by hand, two at once."""

from __future__ import annotations

import threading

import pytest

from orchestrator import api
from orchestrator.store.ledger import Ledger
from orchestrator.sweeps import forecast
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text
from orchestrator.workflow.plan import Selection
from orchestrator.workflow.sweep_result import SWEEP_STAGE
from stages.catalog import find_stage
from sweeps.search_kit import ASHA, BEST, TPE, Story, told, workflow

SETTINGS = {"sampler": TPE, "trials": 5}


def test_nothing_meets_the_constraints(search) -> None:
    """The search is an answer: done, the reason said, what waits for the best skipped; asked again the same, without work."""
    constraints = [{"metric": "tune.value", "min": 3}]
    front = "each: {stage: probe.bytes, inputs: {input: search.front.tune}}"
    text = workflow(settings={**SETTINGS, "constraints": constraints}, after=f"{BEST}\n{front}\nalone: {{stage: probe.echo}}")
    first, second = search(text), search(text)
    for story in (first, second):
        assert story.state == "done"
        assert story.ended.unmet["search"].startswith("None of 5 trials meets the constraints. Nearest was t000")
        assert not {"final", "each"} & set(story.made)
    assert first.of("names_skipped")[0]["why"].keys() == {"final", "each"}
    assert "alone" in first.made
    assert second.attempts == []
    plan = api.plan_checked(checked(text), workspace=first.workspace)
    assert plan.skipped["final"].startswith('no trial of "search" meets the constraints')
    assert plan.skipped["each"].startswith('no trial of "search" meets the constraints')


def checked(text: str):
    return check_workflow(load_text(text, file="w.yaml"))


class Halves:
    """In place of the forecasts of stages: half of `value` is known before anything runs; of the others nothing."""

    def __init__(self, _artifacts: object) -> None:
        self.asked: list[str] = []

    def of_trial(self, nodes, outer) -> dict[str, float]:
        assert "base" in outer
        (value,) = [node.settings.value for label, node in nodes.items() if label.endswith("/tune")]
        return {"tune.value": value}


@pytest.fixture
def halves(monkeypatch) -> None:
    monkeypatch.setattr(forecast, "Forecaster", Halves)
    let_values_be_forecast(monkeypatch)


def let_values_be_forecast(monkeypatch) -> None:
    spec = find_stage("probe.sleep")
    monkeypatch.setitem(vars(spec), "forecast_metrics", ("value",))


STATIC = [{"metric": "tune.value", "max": 0.5, "check": "static"}]


def test_static_constraints_strike_out_trials_before_anything_runs(search, halves) -> None:
    """They count as trials, cost nothing, and are in the table with the reason."""
    story = search(workflow(settings={**SETTINGS, "trials": 8, "constraints": STATIC}))
    trials = story.result().trials
    struck = [trial for trial in trials if trial.state == "infeasible"]
    assert len(trials) == 8
    assert 0 < len(struck) < 8
    assert all(trial.values["tune.value"] > 0.5 and trial.violated for trial in struck)
    assert not [label for label in story.attempts for trial in struck if label.startswith(f"search/t{trial.number:04d}")]
    assert story.result().best in {trial.number for trial in trials if trial.state == "done"}


def test_trials_struck_out_by_a_constraint_are_tried_where_that_is_gone(search, halves) -> None:
    """Another budget is another question: what it allows now is run, and what it forbids still is not."""
    first = search(workflow(settings={**SETTINGS, "trials": 8, "constraints": STATIC}))
    struck = [trial.number for trial in first.result().trials if trial.state == "infeasible"]
    none = search(workflow(settings={**SETTINGS, "trials": 8}))
    assert none.trials() == struck
    assert {trial.state for trial in none.result().trials} == {"done"}


def test_a_tighter_static_constraint_judges_what_is_known(search, halves) -> None:
    """Nothing runs again; what had been struck out still is, with the new distance."""
    first = search(workflow(settings={**SETTINGS, "trials": 8, "constraints": STATIC}))
    second = search(workflow(settings={**SETTINGS, "trials": 8, "constraints": [{**STATIC[0], "max": 0.3}]}))
    assert (second.attempts, second.trials()) == ([], [])
    for before, now in zip(first.result().trials, second.result().trials, strict=True):
        assert before.state == now.state
        assert "highest allowed 0.3" in " ".join(now.violated) or now.values["tune.value"] <= 0.3


def test_what_no_forecast_knows_is_found_out_by_running(search, monkeypatch) -> None:
    """A static constraint on a metric that cannot be known beforehand strikes nothing out."""

    class Nothing(Halves):
        def of_trial(self, nodes, outer) -> dict[str, float]:
            return {}

    monkeypatch.setattr(forecast, "Forecaster", Nothing)
    let_values_be_forecast(monkeypatch)
    story = search(workflow(settings={**SETTINGS, "constraints": STATIC}))
    assert {trial.state for trial in story.result().trials} == {"done"}
    assert any(trial.violated for trial in story.result().trials)


FINALISTS = {**SETTINGS, "scheduler": ASHA, "finalists": {"top": 2, "seeds": [1, 2]}}


def test_finalists_run_again_with_other_seeds_once(search) -> None:
    """The winner is stated with what further seeds say; submitting again finds it all."""
    text = workflow(settings=FINALISTS, after=BEST)
    first = search(text)
    result = first.result()
    repeats = [label for label in first.made if ".s" in label]
    assert sorted({label.split("/")[1] for label in repeats}) == sorted(
        f"t{number:04d}.s{seed}" for number in result.repeats for seed in (1, 2)
    )
    assert "mean of 2 further seeds with its 95% interval" in result.verdict
    second = search(text)
    assert (second.attempts, second.of("sweep_started")) == ([], [])
    more = search(workflow(settings={**FINALISTS, "finalists": {"top": 2, "seeds": [1, 2, 3]}}, after=BEST))
    assert {label.rpartition(".")[2].partition("/")[0] for label in more.made if label.startswith("search")} <= {"s3"}


def test_finalists_that_cannot_be_told_apart_are_ties(search) -> None:
    """Here the seed changes nothing, so equal values are equal for sure, and others are told apart."""
    space = {"tune.value": {"choice": [0.5, 0.2]}, "pack.value": {"choice": ["a", "b"]}}
    settings = {"sampler": "grid", "trials": None, "space": space, "finalists": {"top": 3, "seeds": list(range(1, 9))}}
    nodes = {"tune": "{stage: probe.sleep, inputs: {inputs: base}}", "pack": "{stage: probe.echo, inputs: {inputs: tune}}"}
    result = search(workflow(settings=settings, nodes=nodes)).result()
    assert len(result.repeats) == 3
    assert len(result.ties) == 1
    assert "Not told apart from it" in result.verdict
    assert "Told apart" in result.verdict


def test_searching_anew_runs_no_stage_again(search) -> None:
    """`--rerun search` is for the search; what its trials have made stays."""
    text = workflow(settings=FINALISTS, after=BEST)
    first = search(text)
    second = search(text, selection=Selection(rerun=("search",)))
    assert second.of("sweep_started")[0]["known"] == 0
    assert len(second.trials()) == 5
    done = {trial.number for trial in first.result().trials if trial.state == "done"}
    assert not {int(label[8:12]) for label in second.made if label.startswith("search/t") and label[8:12].isdigit()} & done
    assert [trial.values for trial in second.result().trials] == [trial.values for trial in first.result().trials]
    assert search(text).of("sweep_started") == []


def test_until_a_sweep_stops_after_it(search) -> None:
    """`--until search`: the search and what it needs; then the rest finds it."""
    text = workflow(settings=SETTINGS, after=BEST)
    first = search(text, selection=Selection(until=("search",)))
    assert first.state == "done"
    assert "final" not in first.made
    assert first.result().best is not None
    second = search(text)
    assert second.made == ["final"]


def test_a_search_that_is_told_to_stop_settles_with_what_there_is(search, monkeypatch) -> None:
    """`sweep stop`: no more are proposed, those that run end, the best so far is the best."""
    real = Ledger.write

    def write(self: Ledger, run: str, events) -> None:
        listed = list(events)
        real(self, run, listed)
        if any(event["type"] == "trial_ended" and event["number"] == 2 for event in listed):
            self.ask_to_stop_sweep(run, "search")

    monkeypatch.setattr(Ledger, "write", write)
    monkeypatch.setattr("stages.contract.Throttle.ready", lambda _self: True)
    story = search(workflow(settings={**SETTINGS, "trials": 50}, after=BEST))
    assert story.state == "done"
    assert 3 <= len(story.result().trials) <= 4
    assert "final" in story.made


def test_two_submissions_at_once_make_each_node_once_and_end_alike(search) -> None:
    """Two terminals, one file."""
    text = workflow(settings={**SETTINGS, "trials": 8, "scheduler": ASHA}, after=BEST)
    stories: list[Story] = []
    threads = [threading.Thread(target=lambda: stories.append(search(text))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [story.state for story in stories] == ["done", "done"]
    one, other = stories
    assert not set(one.made) & set(other.made)
    assert told(one.result()) == told(other.result())
    assert told(one.result()) == told(search(text, store="alone").result())
    assert len(list(one.workspace.artifacts.all_records(SWEEP_STAGE))) == 1


def test_a_run_takes_what_another_has_settled_meanwhile(search, folder) -> None:
    """It was planned before the other had ended, and begins after: it searches nothing."""
    text = workflow(settings=SETTINGS, after=BEST)
    workspace = api.open_workspace(str(folder / "store"))
    late = api.plan_checked(checked(text), workspace=workspace)
    search(workflow(settings=SETTINGS))
    story = Story(api.submit(late, workspace=workspace, executor="inline"), workspace, late)
    assert story.state == "done"
    assert story.of("sweep_started") == []
    assert story.made == ["final"]


def test_what_was_asked_to_run_again_runs_again_behind_a_search_too(search) -> None:
    """`--rerun base`: all below it, though what follows the search is planned only when that has settled."""
    text = workflow(settings=SETTINGS, after=BEST)
    first = search(text)
    second = search(text, selection=Selection(rerun=("base",)))
    assert sorted(second.made) == sorted(first.made)
    longer = workflow(settings={**SETTINGS, "trials": 6}, after=BEST)
    assert search(longer, selection=Selection(rerun=("final",))).made[-1] == "final"


def test_a_search_behind_a_node_that_is_skipped_is_skipped_with_all_that_waits_for_it(search) -> None:
    """While the run goes on as when it is planned again."""
    when = "when: {metric: zero.value, min: 0.9}"
    base = f"zero: {{stage: probe.echo, params: {{value: 0.5}}}}\n  base: {{stage: probe.echo, {when}}}"
    text = workflow(settings=SETTINGS, after=BEST).replace("base: {stage: probe.echo, params: {value: base}}", base)
    first, second = search(text), search(text)
    assert (first.state, first.made, second.attempts) == ("done", ["zero"], [])
    assert first.of("names_skipped")[0]["why"] == {
        "search": "needs base, which is skipped",
        "final": "needs search, which is skipped",
    }
    assert second.plan.skipped == {"final": "needs search, which is skipped"}
