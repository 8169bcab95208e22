"""`cancel`: a run, a node of it, a trial of it; what is waited for, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_calls import Cli, has_started, spawn, wait_until

TWO = """\
version: 1
name: two
nodes:
  wait: {stage: probe.sleep, params: {seconds: 60}}
  below: {stage: probe.echo, inputs: {inputs: [wait]}}
  other: {stage: probe.echo, params: {value: 2}}
"""

TRIALS = """\
version: 1
name: trials
nodes:
  search:
    sweep:
      sampler: grid
      objectives: {score.value: maximize}
      space: {tune.seconds: {choice: [60, 0]}}
    nodes:
      tune: {stage: probe.sleep}
      score: {stage: probe.echo, params: {value: 1}, inputs: {inputs: [tune]}}
"""


def test_a_cancelled_node_takes_what_needs_it_along_and_nothing_else(cli: Cli) -> None:
    Path("two.yaml").write_text(TWO)
    process = spawn("submit", "two.yaml", "--executor", "inline")
    wait_until(lambda: has_started("wait"))
    answer = cli("cancel", "@last", "wait")
    assert answer.code == 0
    assert answer.err.splitlines()[0].endswith("to stop; the rest goes on")
    assert answer.err.splitlines()[1].endswith(": cancelled")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "CANCEL  wait  asked to stop, with what needs it; the rest goes on" in err
    assert "next: orchestrator submit two.yaml" in err.splitlines()[-1]
    nodes = {node["label"]: node["state"] for node in cli("status", "@last", "--json").document["run"]["nodes"]}
    assert nodes == {"wait": "cancelled", "below": "cancelled", "other": "done"}


def test_a_cancelled_trial_is_stopped_and_its_search_goes_on(cli: Cli) -> None:
    """It is not lost either: a later search of the same goes on with it."""
    Path("trials.yaml").write_text(TRIALS)
    process = spawn("submit", "trials.yaml", "--executor", "inline")
    wait_until(lambda: has_started("search/t0000/tune"))
    assert "sweep stop" in cli("cancel", "@last", "search").err
    assert "stops as a whole" in cli("cancel", "@last", "search/t0000/tune").err
    document = cli("cancel", "@last", "search/0", "--json").document
    assert {node["state"] for node in document["run"]["nodes"] if node["label"].startswith("search/t0000/")} == {"cancelled"}
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    trials = cli("sweep", "show", "@last", "--json").document["sweeps"][0]["trials"]
    assert {trial["trial"]: trial["state"] for trial in trials} == {0: "stopped", 1: "done"}
    assert cli("plan", "trials.yaml", "--exit-code").code == 0, "the search has settled"


def test_cancel_by_force_or_detached(cli: Cli) -> None:
    process = spawn("submit", "slow.yaml", "--executor", "inline")
    wait_until(lambda: has_started("wait"))
    answer = cli("cancel", "@last", "--force", "--detach")
    assert (answer.code, answer.out) == (0, "")
    assert "next: orchestrator wait" in answer.err
    assert cli("wait", "@last").code == 130
    process.communicate(timeout=60)
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--force", "--grace", "2m"], "--force leaves no --grace"),
        (["first", "--force"], "are for a whole run"),
        (["nobody"], 'has no node "nobody"'),
        (["--grace", "soon"], "--grace"),
    ],
)
def test_what_cancel_cannot_mean_is_refused(cli: Cli, flags: list[str], said: str) -> None:
    process = spawn("submit", "slow.yaml", "--executor", "inline")
    wait_until(lambda: has_started("wait"))
    answer = cli("cancel", "@last", *flags)
    assert answer.code == 2
    assert said in answer.err
    assert "is not running: it is done" in cli("cancel", "@last", "first").err
    process.kill()
    process.communicate(timeout=60)
