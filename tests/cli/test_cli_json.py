"""With --json stdout holds JSON and nothing else, whatever happens: scripts read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_calls import Cli


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "chain.yaml"],
        ["plan", "chain.yaml", "--why", "middle"],
        ["validate", "chain.yaml", "failing.yaml"],
        ["status"],
        ["status", "@last"],
        ["logs", "@last"],
        ["ls"],
        ["show", "@last"],
        ["cancel", "@last"],
        ["stages", "ls"],
        ["stages", "show", "probe.sleep"],
        ["artifacts", "ls"],
        ["artifacts", "names"],
        ["artifacts", "verify", "--all"],
        ["gc"],
        ["doctor"],
        ["version"],
    ],
    ids=" ".join,
)
def test_every_command_gives_one_document_with_its_schema(cli: Cli, finished: str, arguments: list[str]) -> None:
    answer = cli(*arguments, "--json")
    assert answer.document["schema"] == 1
    assert answer.err == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["status", "@last"],
        ["best"],
        ["pareto", "@last"],
        ["sweep", "show"],
        ["compare", "@last/base", "@last/search/best/score"],
        ["logs", "@last", "search/0"],
    ],
    ids=" ".join,
)
def test_every_command_about_sweeps_gives_one_document_too(cli: Cli, searched: str, arguments: list[str]) -> None:
    answer = cli(*arguments, "--json")
    assert answer.document["schema"] == 1
    assert answer.err == ""


def test_submit_streams_its_plan_events_and_end(cli: Cli) -> None:
    answer = cli("submit", "chain.yaml", "--executor", "inline", "--json")
    types = [line["type"] for line in answer.lines]
    assert answer.err == ""
    assert types[0] == "plan"
    assert types.count("node_done") == 4
    assert types[-1] == "end"
    assert all(line["schema"] == 1 for line in answer.lines)
    assert answer.lines[-1]["state"] == "done"
    assert answer.lines[-1]["exit_code"] == 0
    assert len({line["run"] for line in answer.lines[1:]}) == 1


def test_the_plan_says_in_json_all_that_its_table_shows(cli: Cli, finished: str) -> None:
    document = cli("plan", "chain.yaml", "--set", "last.value=9", "--json").document
    assert document["totals"] == {"HIT": 3, "RUN": 1, "SHARED": 0, "WAIT": 0, "SKIP": 0}
    last = document["nodes"][-1]
    assert last["label"] == "last"
    assert last["status"] == "RUN"
    assert last["why"].startswith("parameter value: ")
    assert len(last["key"]) == 32


def test_an_error_is_a_document_too(cli: Cli) -> None:
    Path("bad.yaml").write_text("version: 1\nname: bad\nnodes:\n  a: {stage: probe.echo, params: {valeu: 1}}\n")
    answer = cli("plan", "bad.yaml", "--json")
    assert answer.code == 2
    error = answer.document["error"]
    assert error["exit_code"] == 2
    assert [problem["line"] for problem in error["problems"]] == [4]
    assert cli("show", "zzzz", "--json").document["error"]["next"] == "orchestrator artifacts ls"
    assert cli("plan", "--json").document["error"]["exit_code"] == 2


def test_validate_reports_good_and_bad_files_together(cli: Cli) -> None:
    Path("bad.yaml").write_text("version: 1\nname: bad\nnodes: {a: {stage: probe.ecko}}\n")
    answer = cli("validate", "chain.yaml", "bad.yaml", "--json")
    assert answer.code == 2
    assert [(file["file"], file["valid"]) for file in answer.document["files"]] == [("chain.yaml", True), ("bad.yaml", False)]


def test_show_gives_the_whole_record(cli: Cli, finished: str) -> None:
    key = cli("artifacts", "ls", "--json").document["artifacts"][0]["key"]
    artifact = cli("show", key[:8], "--json").document["artifact"]
    assert artifact["key"] == key
    assert artifact["files"]["value.json"]["size_bytes"] > 0
    assert artifact["run"] == finished
