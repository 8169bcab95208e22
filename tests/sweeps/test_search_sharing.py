"""What trials have in common is made once: inside a search, between searches, between runs."""

from __future__ import annotations

import pytest

from sweeps.search_kit import BEST, TPE, sweep_lines, told, workflow

NODES = {
    "prepare": "{stage: probe.echo, inputs: {inputs: base}}",
    "tune": "{stage: probe.sleep, inputs: {inputs: prepare}}",
    "score": "{stage: probe.echo, inputs: {inputs: [tune, prepare]}, params: {value: score}}",
}
SPACE = {"prepare.value": {"choice": ["a", "b"]}, "tune.value": {"choice": [0.1, 0.2, 0.3]}}
GRID = {"sampler": "grid", "trials": None, "space": SPACE}


def test_a_stage_that_trials_have_in_common_runs_once(search) -> None:
    """Six trials, two preparations."""
    story = search(workflow(settings=GRID, nodes=NODES))
    assert len(story.trials()) == 6
    assert len([label for label in story.made if label.endswith("/prepare")]) == 2
    assert len([label for label in story.made if label.endswith("/tune")]) == 6
    result = story.result()
    assert result.spent_s > 0
    assert sum(len(trial.seconds) for trial in result.trials) == 2 + 6 + 6


def two(first: dict, second: dict, *, after: str = "", nodes: dict | None = None) -> str:
    text = workflow(settings=first, nodes=nodes or NODES)
    return text + "\n".join(sweep_lines("second", settings=second, nodes=nodes or NODES)) + "\n" + after


def test_two_searches_of_one_workflow_share(search) -> None:
    """At the same time and over the same nodes, by another rule: each node runs once."""
    story = search(two(GRID, {**GRID, "objectives": {"tune.value": "minimize"}}))
    assert story.state == "done"
    assert len(story.made) == 1 + 2 + 6 + 6
    assert len(story.trials()) == 12
    assert (story.result("search").best, story.result("second").best) == (2, 0)


def test_two_runs_share(search) -> None:
    """Another workflow with the same nodes in a search of another name finds them all."""
    search(workflow(settings=GRID, nodes=NODES))
    text = workflow(settings={**GRID, "objectives": {"tune.value": "minimize"}}, nodes=NODES, name="other")
    second = search(text)
    assert second.made == []
    assert second.result("other").best == 0


def test_a_second_search_starts_from_the_best_of_the_first(search) -> None:
    """Chains of searches: the second is planned when the first has settled, and is a hit with it."""
    nodes = {"tune": "{stage: probe.sleep, inputs: {inputs: search.best.tune}}"}
    last = "last: {stage: probe.echo, inputs: {inputs: [second.best.tune, search.best.score]}}"
    text = workflow(settings=GRID, nodes=NODES)
    space = {"tune.value": {"choice": [0.7, 0.9]}}
    text += "\n".join(sweep_lines("second", settings={"sampler": "grid", "trials": None, "space": space}, nodes=nodes))
    text += f"\n  {last}\n"
    story = search(text)
    assert story.state == "done"
    assert [event["sweep"] for event in story.of("sweep_settled")] == ["search", "second"]
    assert story.result("second").best == 1
    assert story.made[-1] == "last"
    assert search(text).attempts == []
    again = search(text.replace('"tune.value": {"choice": [0.1, 0.2, 0.3]}', '"tune.value": {"choice": [0.1, 0.2, 0.4]}'))
    assert again.state == "done"
    assert [event["known"] for event in again.of("sweep_started")] == [4, 0]


def test_what_follows_the_front_is_made_for_each_of_its_trials(search) -> None:
    """One export for each trade-off, paired by trial."""
    objectives = {"tune.value": "maximize", "score.num_inputs": "minimize", "pack.size_bytes": "minimize"}
    nodes = {**NODES, "pack": "{stage: probe.bytes, inputs: {input: tune}}"}
    space = {"tune.value": {"choice": [0.1, 0.2, 0.3]}, "pack.size": {"choice": [10, 20]}}
    after = """
        each: {stage: probe.bytes, inputs: {input: search.front.tune}, params: {size: 5}}
        all: {stage: probe.echo, inputs: {inputs: each}}
    """
    settings = {"sampler": "grid", "trials": None, "space": space, "objectives": objectives}
    story = search(workflow(settings=settings, nodes=nodes, after=after))
    front = story.result().front
    assert len(front) == 1
    assert [label for label in story.made if label.startswith("each")] == [f"each[front=t{number:04d}]" for number in front]
    assert "all" in story.made


@pytest.mark.parametrize("order", [("search", "second"), ("second", "search")])
def test_searches_over_the_same_nodes_do_not_disturb_each_other(search, order) -> None:
    """Each ends as it would have ended alone."""
    alone = search(workflow(settings={"sampler": TPE, "trials": 6}, after=BEST), store="alone")
    nodes = {
        "tune": "{stage: probe.sleep, inputs: {inputs: base}}",
        "pack": "{stage: probe.echo, inputs: {inputs: tune}, params: {value: packed}}",
    }
    both = search(two({"sampler": TPE, "trials": 6}, {"sampler": "random", "trials": 4, "seed": 3}, nodes=nodes))
    assert told(both.result("search")) == told(alone.result())
