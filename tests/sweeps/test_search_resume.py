"""Searches that begin with what earlier ones have left: stopped ones, smaller ones, others over the same nodes."""

from __future__ import annotations

import json

import pytest

from orchestrator.engine.scheduler import Scheduler
from orchestrator.sweeps.search import Search
from orchestrator.workflow.sweep_result import SWEEP_STAGE, TrialRecord
from sweeps.search_kit import ASHA, BEST, NUM_EPOCHS, TPE, Story, ask_to_stop_after, told, workflow

FULL = workflow(settings={"sampler": TPE, "scheduler": ASHA, "trials": 8}, after=BEST)


@pytest.fixture
def stopped(search, monkeypatch):
    """Submit, and leave the mark of cancellation when the count-th event of a kind is written."""

    def run(text: str, what: str, count: int) -> Story:
        with monkeypatch.context() as patch:
            ask_to_stop_after(patch, what, count)
            story = search(text)
        assert story.state == "cancelled"
        return story

    return run


def trial_nodes(labels: list[str], numbers: range) -> list[str]:
    return [label for label in labels if any(label.startswith(f"search/t{number:04d}") for number in numbers)]


@pytest.mark.parametrize(("what", "count"), [("trial_started", 1), ("trial_started", 5), ("trial_ended", 5), ("node_done", 4)])
def test_a_stopped_search_goes_on_as_if_it_had_not_been_stopped(search, stopped, what: str, count: int) -> None:
    """Ctrl-C costs nothing: same suggestions, same early stops, same best; no trial that had ended is tried again."""
    first = stopped(FULL, what, count)
    second = search(FULL)
    assert second.state == "done"
    assert not set(second.made) & set(first.made)
    assert not set(second.trials()) & set(first.trials())
    undisturbed = search(FULL, store="undisturbed")
    assert told(second.result()) == told(undisturbed.result())
    assert {trial.state for trial in second.result().trials} == {"done", "stopped"}
    third = search(FULL)
    assert (third.state, third.attempts, third.of("sweep_started")) == ("done", [], [])


@pytest.mark.parametrize("moment", range(1, 8, 2))
def test_a_kill_between_a_training_and_its_trials_record_loses_no_report(search, monkeypatch, moment: int) -> None:
    """The next run finds the training finished; early stopping must hear of its epochs all the same."""
    real, seen = Search._end, []

    def dying(self: Search, record: TrialRecord, scheduler: Scheduler, *, is_kept: bool = True) -> None:
        seen.append(record)
        if len(seen) == moment:
            raise KeyboardInterrupt
        real(self, record, scheduler, is_kept=is_kept)

    with monkeypatch.context() as patch:
        patch.setattr(Search, "_end", dying)
        assert search(FULL).state == "cancelled"
    second = search(FULL)
    assert told(second.result()) == told(search(FULL, store="undisturbed").result())
    assert f"search/t{moment - 1:04d}/tune" not in second.made


def test_more_trials_take_all_earlier_ones_over(search) -> None:
    """`trials: 8` after `trials: 4` costs four."""
    first = search(workflow(settings={"sampler": TPE, "trials": 4}))
    second = search(workflow(settings={"sampler": TPE, "trials": 8}))
    assert (first.trials(), second.trials()) == ([0, 1, 2, 3], [4, 5, 6, 7])
    assert second.trials(known=True) == [0, 1, 2, 3], "whoever watches sees them, too"
    assert trial_nodes(second.made, range(4)) == []
    assert told(second.result())["trials"][:4] == told(first.result())["trials"]
    assert told(second.result()) == told(search(workflow(settings={"sampler": TPE, "trials": 8}), store="whole").result())


@pytest.mark.parametrize(
    "change",
    [
        {"space": {"tune.value": {"uniform": [-1.0, 2.0]}}},
        {"objectives": {"tune.value": "minimize"}},
        {"objectives": {"tune.value": "maximize", "pack.num_inputs": "minimize"}},
        {"constraints": [{"metric": "tune.value", "max": 0.5}]},
        {"sampler": "random"},
        {"sampler": {"kind": "nsga2", "population": 4}},
        {"seed": 5},
        {"finalists": {"top": 1, "seeds": [7]}},
    ],
    ids=lambda change: json.dumps(change)[:60],
)
def test_a_search_asked_otherwise_uses_the_trials_that_there_are(search, change) -> None:
    """Another space, objective, constraint or sampler is another search over the same nodes: no node is made twice."""
    first = search(workflow(settings={"sampler": TPE, "trials": 4}))
    second = search(workflow(settings={"sampler": TPE, "trials": 6, **change}))
    assert second.state == "done"
    assert second.of("sweep_started")[0]["known"] == 4
    assert second.trials() == [4, 5]
    assert trial_nodes(second.made, range(4)) == [label for label in second.made if ".s7/" in label and label[8:12] < "t0004"]
    values = [trial.values for trial in first.result().trials]
    assert [trial.values for trial in second.result().trials][:4] == values


@pytest.mark.parametrize("change", ["base: {stage: probe.echo, params: {value: another}}", "tune: {stage: probe.echo, inputs"])
def test_another_sub_dag_or_another_outer_artifact_starts_from_nothing(search, change: str) -> None:
    """What was measured of other nodes says nothing about these."""
    text = workflow(settings={"trials": 3})
    search(text)
    head = change.partition("{")[0]
    old = {"base: ": "base: {stage: probe.echo, params: {value: base}}", "tune: ": "tune: {stage: probe.sleep, inputs"}[head]
    second = search(text.replace(old, change))
    assert second.of("sweep_started")[0]["known"] == 0
    assert second.trials() == [0, 1, 2]


def test_a_narrower_space_uses_the_trials_within_it(search) -> None:
    """Of eight trials in [0, 1] those in [0, 0.5] count."""
    first = search(workflow(settings={"sampler": "random", "trials": 8}))
    inside = [trial.values for trial in first.result().trials if trial.values["tune.value"] <= 0.5]
    second = search(workflow(settings={"sampler": "random", "trials": 8, "space": {"tune.value": {"uniform": [0.0, 0.5]}}}))
    assert 0 < len(inside) < 8
    assert second.of("sweep_started")[0]["known"] == len(inside)
    assert all(values in [trial.values for trial in second.result().trials] for values in inside)


def test_without_early_stopping_stopped_trials_go_on_to_their_end(search) -> None:
    """A trial that a rule gave up is no answer where there is no such rule; it goes on from what it had saved."""
    settings = {"sampler": TPE, "trials": 6}
    first = search(workflow(settings={**settings, "scheduler": ASHA}))
    stopped = [trial.number for trial in first.result().trials if trial.state == "stopped"]
    second = search(workflow(settings=settings))
    assert stopped
    assert second.trials() == stopped
    assert {trial.state for trial in second.result().trials} == {"done"}
    assert all(not trial.history for trial in second.result().trials)
    resumed = [trial.metrics["tune.num_epochs_resumed"] for trial in second.result().trials if trial.number in stopped]
    assert all(0 < epochs < NUM_EPOCHS for epochs in resumed)


def test_early_stopping_by_another_metric_compares_by_that_metric(search) -> None:
    """What is known of finished trials is read again from what they had reported."""
    first = search(workflow(settings={"trials": 4}))
    rule = {**ASHA, "metric": "tune.loss", "mode": "minimize"}
    second = search(workflow(settings={"trials": 5, "scheduler": rule}))
    trials = second.result().trials
    assert second.trials() == [4]
    for before, trial in zip(first.result().trials, trials[:4], strict=True):
        assert len(trial.history) == NUM_EPOCHS
        assert trial.history[-1][1] == pytest.approx(-before.metrics["tune.value"] * (1 - 0.5**NUM_EPOCHS))


def test_a_best_artifact_that_was_deleted_is_made_again(search) -> None:
    """A settled search whose best model is gone: the model is made anew, the search is not."""
    first = search(FULL)
    best = first.result().best
    workspace = first.workspace
    (record,) = [found for found in workspace.artifacts.all_records("probe.sleep") if found.label == f"search/t{best:04d}/tune"]
    entry = workspace.store.read(f"artifacts/probe.sleep/{record.key}/record.json")
    workspace.store.delete(f"artifacts/probe.sleep/{record.key}/record.json", version=entry.version)
    second = search(FULL)
    assert second.state == "done"
    assert second.made == [f"search/t{best:04d}/tune"]
    assert second.of("sweep_started") == []
    assert workspace.artifacts.find("probe.sleep", record.key).content_digest == record.content_digest


@pytest.mark.parametrize("damage", ["text", "gone", "cut"])
def test_a_damaged_result_is_put_together_again_from_the_log(search, damage: str) -> None:
    """A bad disk costs the table, not the trials."""
    first = search(FULL)
    (record,) = first.workspace.artifacts.all_records(SWEEP_STAGE)
    path = first.workspace.store.blob_path(record.files["sweep.json"].digest)
    path.chmod(0o644)
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if damage == "cut" else data.replace(b"done", b"d0ne"))
    second = search(FULL)
    assert (second.state, second.attempts, second.trials()) == ("done", [], [])
    assert told(second.result()) == told(search(FULL, store="other").result())
    third = search(FULL)
    assert third.of("sweep_started") == []
