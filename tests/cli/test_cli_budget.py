"""Budgets: refused before anything runs, heeded while it runs, told by whoever shows it, gone on from with a larger one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_calls import Cli

from orchestrator import api

INLINE = ("--executor", "inline")
SWEEP = """version: 1
name: budgeted
nodes:
  search:
    sweep: {trials: 6, sampler: random, max_concurrent: 1, objectives: {try.value: minimize}, space: {try.value: {int: [0, 1000000]}}}
    nodes:
      try: {stage: probe.sleep, params: {seconds: 0.25}}
  after: {stage: probe.echo, inputs: {inputs: search.best.try}}
"""  # noqa: E501 - one line says a sweep best
CHAIN = """version: 1
name: chain
nodes:
  a: {stage: probe.sleep, params: {seconds: 0.3, value: 1}}
  b: {stage: probe.sleep, params: {seconds: 0.3, value: 2}, inputs: {inputs: a}}
"""


@pytest.fixture
def files(cli: Cli) -> None:
    Path("sweep.yaml").write_text(SWEEP)
    Path("chain.yaml").write_text(CHAIN)


@pytest.mark.usefixtures("files")
def test_a_budget_that_cannot_be_enough_is_refused_before_anything_runs(cli: Cli) -> None:
    assert cli("submit", "chain.yaml", *INLINE).code == 0
    runs = len(api.open_workspace().ledger.runs())
    answer = cli("submit", "chain.yaml", *INLINE, "--rerun", "a", "--budget", "0.0001cpuh")
    assert answer.code == 6
    assert "the plan needs more than its budget" in answer.err
    assert "nothing was run" in answer.err
    assert len(api.open_workspace().ledger.runs()) == runs
    assert "budget 0.0001 CPU-h: too small" in cli("plan", "chain.yaml", "--rerun", "a", "--budget", "0.0001cpuh").out


@pytest.mark.usefixtures("files")
def test_the_budget_that_is_proposed_is_larger_than_what_was_spent(cli: Cli) -> None:
    """What runs may end, so a node can spend ten budgets; twice the budget would be refused as spent already."""
    answer = cli("submit", "chain.yaml", *INLINE, "--budget", "0.00002cpuh")
    assert answer.code == 6
    run = api.status("@last", workspace=api.open_workspace())
    proposed = float(answer.err.rpartition("--budget ")[2].removesuffix("cpuh\n"))
    assert proposed > run.spent.cpu > 2 * 0.00002


@pytest.mark.usefixtures("files")
def test_a_search_proposes_no_more_when_its_budget_is_spent_and_a_larger_one_goes_on(cli: Cli) -> None:
    """Half a second of the trials' quarter seconds each: two or three of six, and none of them in vain."""
    answer = cli("submit", "sweep.yaml", *INLINE, "--budget", "0.00012cpuh")
    assert answer.code == 6, answer.err
    assert "the budget is spent (" in answer.err
    run = api.status("@last", workspace=api.open_workspace())
    ended = [trial for trial in run.sweeps["search"].trials.values() if trial.state == "done"]
    assert 1 <= len(ended) < 6
    assert run.state == "cancelled"
    assert not any(node.state == "cancelled" and node.started for node in run.nodes.values()), "what ran has ended"
    assert run.spent.cpu >= 0.00012
    shown = cli("status", run.id)
    assert "the budget is spent" in shown.out
    assert cli("wait", run.id).code == 6
    again = cli("resume", run.id, *INLINE)
    assert again.code == 6, "the same budget is spent already"
    assert "the budget is spent" in again.err
    on = cli("resume", run.id, *INLINE, "--budget", "1cpuh")
    assert on.code == 0, on.err
    after = api.status("@last", workspace=api.open_workspace())
    assert after.nodes["after"].state == "done"
    found = api.spent_so_far(after.id, workspace=api.open_workspace())
    assert found.cpu > run.spent.cpu, "what it continues counts"


@pytest.mark.usefixtures("files")
def test_the_budget_of_a_workflow_file_counts_and_changes_no_key(cli: Cli) -> None:
    plain = json.loads(cli("plan", "chain.yaml", "--json").out)
    Path("limited.yaml").write_text(CHAIN.replace("name: chain\n", "name: chain\nbudget: {cpu_hours: 0.00001}\n"))
    limited = json.loads(cli("plan", "limited.yaml", "--json").out)
    assert [node["key"] for node in plain["nodes"]] == [node["key"] for node in limited["nodes"]]
    assert limited["price"]["budget"] == {"limits": {"cpu_hours": 1e-5}, "verdict": "not known yet"}
    answer = cli("submit", "limited.yaml", *INLINE)
    assert answer.code == 6, "no record told before; the first node told"
    assert cli("submit", "limited.yaml", *INLINE, "--budget", "1cpuh").code == 0


@pytest.mark.parametrize(
    ("flag", "said"),
    [("40", "expected 40gpuh"), ("0gpuh", "expected 40gpuh"), ("5usd", "next: orchestrator config set lab.usd_per_gpu_hour ")],
)
@pytest.mark.usefixtures("files")
def test_a_budget_that_says_nothing_is_refused(cli: Cli, flag: str, said: str) -> None:
    answer = cli("submit", "chain.yaml", *INLINE, "--budget", flag)
    assert (answer.code, said in answer.err) == (2, True)


@pytest.mark.usefixtures("files")
def test_a_budget_in_money_takes_the_prices_of_the_profile(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("profiles.toml").write_text("[lab]\nusd_per_cpu_hour = 100.0\n")
    monkeypatch.setenv("ORCHESTRATOR_PROFILES", "profiles.toml")
    assert cli("--profile", "lab", "submit", "chain.yaml", *INLINE, "--budget", "1usd").code == 0
    answer = cli("--profile", "lab", "submit", "chain.yaml", *INLINE, "--rerun", "a", "--budget", "0.001usd")
    assert answer.code == 6
    assert "of 0.001 USD" in answer.err


@pytest.mark.usefixtures("files")
def test_a_run_with_a_budget_in_money_goes_on_where_no_profile_has_prices(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its request has them; whoever continues it from another machine need not know them."""
    Path("profiles.toml").write_text("[lab]\nusd_per_cpu_hour = 100.0\n")
    monkeypatch.setenv("ORCHESTRATOR_PROFILES", "profiles.toml")
    assert cli("--profile", "lab", "submit", "chain.yaml", *INLINE, "--budget", "0.001usd").code == 6
    answer = cli("resume", "@last", "--budget", "1usd")
    assert answer.code == 0, answer.err


@pytest.mark.usefixtures("files")
def test_more_gpus_than_a_run_may_use_are_refused(cli: Cli) -> None:
    Path("gpu.yaml").write_text(CHAIN.replace("value: 1}", "value: 1}, resources: {gpus: 4}"))
    answer = cli("submit", "gpu.yaml", *INLINE, "--max-gpus", "2")
    assert "asks for 4 GPU, and this run may use 2 (--max-gpus)" in answer.err
