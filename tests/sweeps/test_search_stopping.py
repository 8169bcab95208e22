"""Early stopping and population based training through whole runs, most with stages that really train."""

from __future__ import annotations

import pytest

from orchestrator.store.artifacts import checkpoint_workspace
from orchestrator.sweeps.search import Search
from sweeps.search_kit import ASHA, BEST, NUM_EPOCHS, Story, ask_to_stop_after, logged, told, workflow

EPOCHS = 4
REAL = """
version: 1
name: real
nodes:
  base: {stage: pretrain.classifier, params: {model: cnn_micro, data: digits, epochs: 1}}
  search:
    sweep:
      trials: TRIALS
      sampler: grid
      max_concurrent: 1
      scheduler: {kind: KIND, metric: tune.top1_accuracy, grace: 1, reduction_factor: 2, min_trials: 2}
      objectives: {tune.top1_accuracy: maximize}
      space: {tune.learning_rate: {choice: [0.01, 0.0001, 0.003, 0.00001, 0.005]}}
    nodes:
      tune: {stage: finetune.classifier, inputs: {model: base}, params: {data: digits, epochs: EPOCHS}}
  export: {stage: export.packed, inputs: {model: search.best.tune}}
"""


def real(kind: str, *, trials: int = 5, epochs: int = EPOCHS) -> str:
    return REAL.replace("KIND", kind).replace("TRIALS", str(trials)).replace("EPOCHS", str(epochs))


def epochs_trained(story: Story) -> dict[str, set[int]]:
    """By key's beginning: the epochs that the ledger has of each training."""
    found = {}
    for event in story.of("node_started"):
        node = story.ended.status.nodes[event["node"]]
        if "/tune" in event["node"]:
            folder = f"search.tune-{node.key[:12]}"
            lines, _ = story.workspace.ledger.progress(story.ended.run, folder)
            found[event["node"]] = {line["epoch"] for line in lines if "epoch" in line}
    return found


@pytest.mark.parametrize("kind", ["asha", "hyperband", "median"])
def test_stopped_trials_cost_no_more_than_their_rung(search, kind: str) -> None:
    """A trial that is given up after an epoch has trained that epoch and no other; what was trained to the end is measured."""
    text = real(kind)
    story = search(text)
    assert story.state == "done"
    trials = story.result().trials
    assert len(trials) == 5
    stopped = [trial for trial in trials if trial.state == "stopped"]
    assert stopped
    trained = epochs_trained(story)
    for trial in trials:
        last = trial.history[-1][0]
        assert [step for step, _ in trial.history] == list(range(1, last + 1))
        assert trained[f"search/t{trial.number:04d}/tune"] == set(range(1, last + 1))
        assert (last < EPOCHS) == (trial.state == "stopped")
        assert trial.seconds[trial.keys["tune"]] > 0
    assert story.made[-1] == "export"
    assert search(text).attempts == []


def test_hyperband_pauses_trials_and_lets_the_best_go_on_from_what_they_saved(search) -> None:
    """Nothing is trained twice though a trial is begun twice."""
    story = search(real("hyperband", trials=4))
    twice = {label for label in story.attempts if story.attempts.count(label) > 1}
    assert twice
    saved = [checkpoint_workspace(node.key) for label, node in story.ended.status.nodes.items() if label in twice]
    assert saved
    told_epochs = epochs_trained(story)
    for label in twice & set(story.made):
        assert told_epochs[label] == set(range(1, EPOCHS + 1))
    records = {record.label: record for record in story.workspace.artifacts.all_records("finetune.classifier")}
    for label in twice & set(story.made):
        assert records[label].measurements.get("num_steps_resumed", records[label].measurements.get("epochs_resumed", 1)) > 0


@pytest.mark.parametrize("kind", ["asha", "hyperband", "median"])
@pytest.mark.parametrize("count", [2, 5, 7])
def test_a_search_with_early_stopping_goes_on_as_if_it_had_not_been_stopped(search, monkeypatch, kind: str, count: int) -> None:
    """The moments of Ctrl-C among them those at which trials are paused."""
    monkeypatch.setattr(Search, "_longest_training", lambda _self: NUM_EPOCHS)
    text = workflow(settings={"sampler": "random", "scheduler": {**ASHA, "kind": kind}, "trials": 7}, after=BEST)
    with monkeypatch.context() as patch:
        ask_to_stop_after(patch, "node_started", count)
        assert search(text).state == "cancelled"
    assert told(search(text).result()) == told(search(text, store="undisturbed").result())


PBT = {
    "sampler": {"kind": "pbt", "population": 3, "carry": {"tune.input": "tune"}},
    "trials": 9,
    "objectives": {"tune.size_bytes": "maximize"},
    "space": {"tune.size": {"int": [1, 1000]}},
}
MEMBER = {"tune": "{stage: probe.bytes, inputs: {input: base}}", "pack": "{stage: probe.echo, inputs: {inputs: tune}}"}


def population(*, after: str = BEST, **settings) -> str:
    return workflow(settings={**PBT, **settings}, nodes=MEMBER, after=after)


def parents_in_inputs(story: Story) -> None:
    """Each child's training has read its parent's artifact, and nothing else."""
    result = story.result()
    keys = {trial.number: trial.keys["tune"] for trial in result.trials}
    records = {record.key: record for record in story.workspace.artifacts.all_records("probe.bytes")}
    for trial in result.trials:
        wanted = {keys[trial.parent]} if trial.parent is not None else None
        inputs = set(records[trial.keys["tune"]].input_digests)
        assert wanted is None or inputs == wanted
        assert (trial.parent is None) == (trial.number < 3)


def test_a_population_goes_on_from_its_parents_artifacts(search) -> None:
    """Three generations; what refers to the best finds it, and all is found by a second submit."""
    text = population()
    story = search(text)
    assert story.state == "done"
    parents_in_inputs(story)
    assert story.made[-1] == "final"
    best = story.result().best
    record = next(iter(found for found in story.workspace.artifacts.all_records("probe.echo") if found.label == "final"))
    assert set(record.input_digests) == {story.result().trials[best].keys["tune"]}
    second = search(text)
    assert (second.attempts, second.of("sweep_started")) == ([], [])


@pytest.mark.parametrize("count", [2, 4, 5, 8])
def test_a_population_that_was_stopped_goes_on(search, monkeypatch, count: int) -> None:
    """In any generation; no member that had ended is trained again."""
    text = population()
    with monkeypatch.context() as patch:
        ask_to_stop_after(patch, "trial_ended", count)
        first = search(text)
    assert first.state == "cancelled"
    second = search(text)
    assert not set(first.made) & set(second.made)
    assert sorted([*first.trials(), *second.trials()]) == list(range(9))
    parents_in_inputs(second)
    assert told(second.result()) == told(search(text, store="undisturbed").result())


def test_more_generations_go_on_from_the_last(search) -> None:
    """trials: 9 -> 12."""
    search(population(after=""))
    second = search(population(trials=12))
    assert second.trials() == [9, 10, 11]
    parents_in_inputs(second)
    assert len(logged(second.workspace)) == 12


def test_populations_of_other_seeds_keep_to_their_own_parents(search) -> None:
    """Two searches over the same few choices: a child is known by what it really goes on from."""
    space = {"tune.size": {"choice": [1, 2, 3]}}
    for seed in (1, 2, 3, 1, 2):
        text = population(space=space, seed=seed, trials=12)
        parents_in_inputs(search(text.replace('"trials": 12', '"trials": 9')))
        parents_in_inputs(search(text))


def test_an_ancestor_whose_artifact_is_gone_is_made_again_for_its_child(search) -> None:
    """The best of generation two was deleted, and its parent too."""
    text = population()
    story = search(text)
    best = story.result().trials[story.result().best]
    lost = {best.keys["tune"], story.result().trials[best.parent].keys["tune"]} if best.parent is not None else set()
    for key in lost:
        story.workspace.store.delete(f"artifacts/probe.bytes/{key}/record.json")
    again = search(text)
    assert again.state == "done"
    assert {story.workspace.artifacts.find("probe.bytes", key) is not None for key in lost} <= {True}
    assert len([label for label in again.made if label.endswith("/tune")]) == len(lost)
