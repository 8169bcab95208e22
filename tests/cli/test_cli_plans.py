"""A plan beside a run, and a plan as a file that runs unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_calls import Cli


def test_a_plan_is_shown_beside_a_run_with_what_changed_each_node(cli: Cli, finished: str) -> None:
    same = cli("plan", "chain.yaml", "--diff", finished)
    assert same.out == f"nothing differs from run {finished}: 4 nodes with equal keys\n"
    Path("chain.yaml").write_text(
        Path("chain.yaml").read_text().replace("[1, 2]", "[1, 5]") + "  extra: {stage: probe.echo, params: {value: 8}}\n"
    )
    lines = cli("plan", "chain.yaml", "--diff", "@last").out.splitlines()
    assert [line.split()[:2] for line in lines[1:-1]] == [
        ["NEW", "middle[value=5]"], ["DIFF", "last"], ["NEW", "extra"], ["GONE", "middle[value=2]"],
    ]  # fmt: skip
    assert lines[2].endswith("follows its input inputs")
    out = cli("plan", "chain.yaml", "--diff", finished, "--set", "first.value=7", "--json").document
    assert out["same"] == 0
    first = next(change for change in out["changes"] if change["label"] == "first")
    assert first["differences"] == [{"field": "settings.value", "before": 3, "now": 7}]


def test_a_plan_beside_a_run_with_a_sweep_names_the_sweep_and_no_trial(cli: Cli, searched: str) -> None:
    assert "nothing differs" in cli("plan", "search.yaml", "--diff", searched).out
    out = cli("plan", "search.yaml", "--diff", searched, "--set", "search.trials=7").out
    assert [line.split()[:2] for line in out.splitlines()[1:-1]] == [["DIFF", "search"]]


def test_a_saved_plan_runs_unchanged_whatever_the_file_says_by_then(cli: Cli) -> None:
    answer = cli("plan", "chain.yaml", "--set", "first.value=9", "--out", "plan.json")
    assert answer.code == 0
    assert "orchestrator submit plan.json" in answer.err
    keys = [node["key"] for node in json.loads(Path("plan.json").read_text())["nodes"]]
    Path("chain.yaml").write_text("version: 1\nname: other\nnodes: {a: {stage: probe.echo}}\n")
    answer = cli("submit", "plan.json", "--executor", "inline", "--json")
    assert answer.code == 0, answer.err
    assert [node["key"] for node in answer.lines[0]["nodes"]] == keys
    request = cli("status", "@last", "--json").document["run"]["request"]
    assert request["origin"] == {"plan_file": "plan.json"}
    assert cli("submit", "plan.json").err.startswith("nothing to do: ")


def test_a_plan_whose_keys_this_code_would_not_make_is_refused(cli: Cli) -> None:
    cli("plan", "chain.yaml", "--out", "plan.json")
    content = json.loads(Path("plan.json").read_text())
    content["nodes"][1]["key"] = "0" * 32
    Path("plan.json").write_text(json.dumps(content))
    answer = cli("submit", "plan.json", "--executor", "inline")
    assert answer.code == 2
    assert 'node "middle[value=1]" had key 00000000 and would have ' in answer.err
    assert not Path(".orchestrator/runs").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "it is no JSON"),
        ("[]", "it was not written by plan --out"),
        ('{"kind": "orchestrator plan", "schema": 99}', "it has schema 99"),
        ('{"kind": "orchestrator plan", "schema": 1}', "'text' is missing"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(cli: Cli, text: str, words: str) -> None:
    Path("plan.json").write_text(text)
    answer = cli("submit", "plan.json")
    assert answer.code == 2
    assert words in answer.err
    assert "orchestrator plan FILE --out plan.json" in answer.err


def test_a_saved_plan_takes_no_changes_and_is_json(cli: Cli) -> None:
    cli("plan", "chain.yaml", "--out", "plan.json")
    assert "runs unchanged" in cli("submit", "plan.json", "--set", "first.value=1").err
    assert "a saved plan is a .json file" in cli("plan", "chain.yaml", "--out", "plan.yaml").err
    assert "cannot read" in cli("submit", "absent.json").err


def test_a_saved_plan_is_no_workflow_to_be_validated(cli: Cli) -> None:
    cli("plan", "chain.yaml", "--out", "plan.json")
    answer = cli("validate", "plan.json")
    assert answer.code == 2
    assert answer.err.splitlines()[-1] == "   next: orchestrator submit plan.json"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--graph", "--why", "last"), "--why and --graph are views of a plan"),
        (("--graph", "--budget", "2cpuh"), "which --graph does not show"),
    ],
)
def test_a_view_of_a_plan_that_would_be_left_out_is_refused(cli: Cli, flags: tuple[str, ...], said: str) -> None:
    answer = cli("plan", "chain.yaml", *flags)
    assert (answer.code, said in answer.err, answer.out) == (2, True, "")


def test_a_budget_in_money_needs_prices_only_where_it_is_shown(cli: Cli) -> None:
    Path("priced.yaml").write_text(Path("chain.yaml").read_text() + "budget: {usd: 5}\n")
    assert cli("plan", "priced.yaml").code == 2
    assert cli("plan", "priced.yaml", "--graph").code == 0
