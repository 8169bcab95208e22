"""Trials that fail, in every way: recorded, never a hit, no harm to others; too many of them, and the sweep has failed."""

from __future__ import annotations

import pytest

from orchestrator import api
from orchestrator.cli import main
from orchestrator.errors import PlanError
from orchestrator.sweeps import trial_plans
from sweeps.search_kit import TPE, ask_to_stop_after, logged, told, workflow

GOOD = [0.1, 0.5, 0.3]


def grid(*values: object, after: str = "", **settings: object) -> str:
    space = {"tune.value": {"choice": list(values)}}
    return workflow(settings={"sampler": "grid", "space": space, "trials": None, **settings}, after=after)


FAILURES = {
    "ValueError": "ValueError: these settings do not go together",
    "RuntimeError": "RuntimeError: the weather",
    "diverges": "TrainingDiverged: the loss is no number",
    "memory": "MemoryError: too large",
    "NaN": "NotEncodable: metrics.value: nan has no canonical form",
    "missing": "objective tune.value was not reported",
}


@pytest.mark.parametrize(("value", "error"), FAILURES.items())
def test_a_failed_trial_is_recorded_and_harms_no_other(search, value: str, error: str) -> None:
    """One combination that does not work is an answer, not the end of the search."""
    story = search(grid(GOOD[0], value, *GOOD[1:], after="final: {stage: probe.echo, inputs: {inputs: search.best.tune}}"))
    assert story.state == "done"
    result = story.result()
    assert [trial.state for trial in result.trials] == ["done", "failed", "done", "done"]
    assert (result.best, result.front) == (2, (2,))
    assert error in result.trials[1].error
    assert story.of("trial_ended")[1]["error"] == result.trials[1].error
    assert {record.label for record in story.workspace.artifacts.all_records("probe.sleep")} >= {"search/t0000/tune"}
    assert "search/t0001/pack" not in story.made or value in ("NaN", "missing")
    assert "final" in story.made


@pytest.mark.parametrize("value", FAILURES)
def test_too_many_failures_are_the_sweeps_own(search, value: str) -> None:
    """Nobody pays for a search that cannot work; the reason is said, no more is proposed."""
    after = "final: {stage: probe.echo, inputs: {inputs: search.best.tune}}"
    text = grid(value, 0.1, 0.2, after=after, max_failures=0)
    story = search(text)
    assert story.state == "failed"
    assert story.trials() == [0]
    assert story.error == (
        f'sweep "search": 1 of 1 trials failed, more than max_failures 0; the last: {story.of("trial_ended")[0]["error"]}'
    )
    assert story.of("sweep_failed")
    assert "final" not in story.made
    assert story.of("sweep_settled") == []


def test_exactly_max_failures_are_forgiven(search) -> None:
    """Three of three allowed."""
    story = search(grid("ValueError", "diverges", "NaN", 0.4, max_failures=3))
    assert story.state == "done"
    assert story.result().best == 3


def test_a_hopeless_failure_is_not_tried_again_and_others_are(search) -> None:
    """The same settings raise the same ValueError; the weather may be better tomorrow."""
    search(grid("ValueError", "RuntimeError", "NaN", 0.4))
    second = search(grid("ValueError", "RuntimeError", "NaN", 0.4, 0.5))
    assert second.trials() == [1, 4]
    assert [label for label in second.attempts if label.endswith("tune")] == ["search/t0001/tune", "search/t0004/tune"]
    assert [trial.state for trial in second.result().trials] == ["failed", "failed", "failed", "done", "done"]


def test_a_failed_sweep_fails_again_without_work_where_nothing_can_change(search) -> None:
    """Submitting again says the same; more failures allowed, and it goes on where it was."""
    text = grid("ValueError", "diverges", 0.4, max_failures=1)
    assert search(text).state == "failed"
    again = search(text)
    assert (again.state, again.attempts, again.trials()) == ("failed", [], [])
    assert "2 of 2 trials failed, more than max_failures 1" in again.error
    more = search(text.replace('"max_failures": 1', '"max_failures": 2'))
    assert (more.state, more.trials(), more.result().best) == ("done", [2], 2)


def test_keep_going_makes_the_rest_of_the_workflow(search) -> None:
    """A search that fails blocks what waits for it; the rest is made, or not, as for a node that fails."""
    after = """
        final: {stage: probe.echo, inputs: {inputs: search.best.tune}}
        other:
          sweep: {sampler: grid, max_concurrent: 1, objectives: {x.value: maximize}, space: {x.value: {choice: [1, 2]}}}
          nodes: {x: {stage: probe.echo, inputs: {inputs: base}}}
        last: {stage: probe.echo, inputs: {inputs: other.best.x}}
    """
    text = grid("ValueError", 0.1, after=after, max_failures=0)
    story = search(text, options=api.RunOptions(keep_going=True))
    assert story.state == "failed"
    assert "last" in story.made
    assert "final" not in story.made
    stops = search(text, store="stops")
    assert stops.state == "failed"
    assert "last" not in stops.made


def test_settings_that_a_stage_refuses_together_are_a_failed_trial_and_known_as_such(search, monkeypatch) -> None:
    """Each value is legal, the combination is not: nothing runs, it counts, and after a stop it is not proposed anew."""
    real = trial_plans.plan_trial

    def refusing(sweep, *, values, **options):
        if values["tune.value"] < 0.4:
            raise PlanError("tune: value below 0.4 needs a teacher")
        return real(sweep, values=values, **options)

    monkeypatch.setattr(trial_plans, "plan_trial", refusing)
    text = workflow(settings={"sampler": TPE, "trials": 8, "max_failures": 8})
    whole = search(text, store="whole")
    failed = [trial.number for trial in whole.result().trials if trial.state == "failed"]
    assert 0 < len(failed) < 8
    assert all(trial.error == "tune: value below 0.4 needs a teacher" for trial in whole.result().trials if trial.error)
    with monkeypatch.context() as patch:
        ask_to_stop_after(patch, "trial_ended", max(failed[0] + 1, 3))
        first = search(text)
    assert first.state == "cancelled"
    second = search(text)
    assert told(second.result()) == told(whole.result())
    assert sorted([*first.trials(), *second.trials()]) == list(range(8))
    assert sorted(record.number for record in logged(second.workspace)) == list(range(8))


def test_a_node_that_fails_on_its_way_is_tried_as_often_as_it_asks_for(search) -> None:
    """Retries are the nodes' own; a trial fails when they are used up."""
    nodes = {"x": "{stage: probe.fail, params: {failures: 1}, retry: {attempts: 2, backoff: 10ms, on_error: true}}"}
    settings = {
        "sampler": "grid",
        "trials": None,
        "objectives": {"x.value": "maximize"},
        "space": {"x.value": {"choice": [1, 2]}},
    }
    story = search(workflow(settings=settings, nodes=nodes))
    assert story.state == "done"
    assert story.attempts.count("search/t0000/x") == 2
    assert story.result().best == 1


def test_a_failed_search_ends_the_command_with_code_3(search, folder, capsys) -> None:
    """Scripts see it."""
    file = folder / "w.yaml"
    file.write_text(grid("ValueError", 0.1, max_failures=0))
    assert main(["--store", str(folder / "cli"), "submit", "--executor", "inline", str(file)]) == 3
    assert "ValueError: these settings do not go together" in capsys.readouterr().err
