"""Finding runs and artifacts by what they are: ls --where, lineage, children, differences; and a run begun only once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_calls import Cli, has_started, spawn, wait_until


def ids(cli: Cli, where: str, *flags: str) -> list[str]:
    return [run["workflow"] for run in cli("ls", "--where", where, *flags, "--json").document["runs"]]


@pytest.fixture
def several(cli: Cli) -> None:
    cli("submit", "chain.yaml", "--executor", "inline", "--tag", "team=vision", "--tag", "note=a and b")
    cli("submit", "failing.yaml", "--executor", "inline", "--tag", "team=vision")
    cli("submit", "chain.yaml", "--tag", "team=speech")


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("tag.team=vision", ["failing", "chain"]),
        ("tag.team=vision and status=failed", ["failing"]),
        ("status!=failed", ["chain", "chain"]),
        ("workflow~ail", ["failing"]),
        ('tag.note="a and b"', ["chain"]),
        ("age<1h and file=chain.yaml", ["chain", "chain"]),
        ("age>1h", []),
        ("seconds<1h AND executor = inline", ["failing", "chain"]),
        ("tag.team!=vision", ["chain"]),
    ],
)
def test_ls_lists_the_runs_that_meet_all_conditions(cli: Cli, several: None, where: str, found: list[str]) -> None:
    assert ids(cli, where) == found


def test_ls_says_when_more_runs_meet_the_conditions_and_when_none_does(cli: Cli, several: None) -> None:
    assert (
        "there are more; next: orchestrator ls --where tag.team=vision --limit 5"
        in cli("ls", "--where", "tag.team=vision", "--limit", "1").err
    )
    assert "there are more" in cli("ls", "--where", "status=done", "--limit", "1").err
    assert "none of 3 runs meets that" in cli("ls", "--where", "id=x").err


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("status", "expected FIELD=VALUE"),
        ("state=done", "there are status, workflow"),
        ("age=7d", "age is asked with < or >"),
        ("status<done", "status is asked with ="),
        ("age<7", "with its unit"),
        ("tag.a='b", "a quote is not closed"),
        ("status=done and", "expected FIELD=VALUE"),
    ],
)
def test_conditions_that_cannot_be_meant_are_refused(cli: Cli, where: str, words: str) -> None:
    answer = cli("ls", "--where", where)
    assert answer.code == 2
    assert words in answer.err
    assert "next: orchestrator ls --where" in answer.err


def test_show_tells_what_an_artifact_was_made_from_and_what_from_it(cli: Cli, finished: str) -> None:
    lines = cli("show", "@last/last", "--lineage").out.splitlines()[1:]
    assert [line.split()[1] for line in lines] == ["last", "middle[value=1]", "first", "middle[value=2]", "first"]
    assert lines[4].endswith("(see above)")
    children = cli("show", "@last/first", "--children", "--json").document["children"]
    assert [child["label"] for child in children] == ["middle[value=1]", "middle[value=2]"]
    assert "middle[value=2]" in cli("show", "@last/first", "--children").out
    assert "nothing was made from artifact" in cli("show", "@last/last", "--children").err
    document = cli("show", "@last/last", "--lineage", "--json").document
    assert [each["depth"] for each in document["lineage"]] == [0, 1, 2, 1, 2]


def test_a_lineage_says_what_is_gone_from_the_store(cli: Cli, finished: str) -> None:
    key = cli("show", "@last/first", "--json").document["artifact"]["key"]
    Path(f".orchestrator/artifacts/probe.echo/{key}/record.json").unlink()
    assert "gone from the store, or damaged" in cli("show", "@last/last", "--lineage").out


def test_show_tells_two_artifacts_and_two_runs_apart(cli: Cli, finished: str) -> None:
    out = cli("show", "@last/middle[value=1]", "--diff", "@last/middle[value=2]").out
    assert "parameter value: 1 -> 2" in out
    assert "metric value: 1 -> 2" in out
    assert out.endswith("other content\n")
    assert "nothing differs in what made them" in cli("show", "@last/last", "--diff", "@last/last").out
    cli("submit", "chain.yaml", "--executor", "inline", "--set", "first.value=4")
    out = cli("show", finished, "--diff", "@last").out
    assert "parameter value: 3 -> 4" in out
    assert f"4 nodes differ from run {finished}" in out
    assert cli("show", finished, "--diff", finished, "--json").document["changes"] == []


@pytest.mark.parametrize("flags", [("--lineage", "--children"), ("--lineage", "--diff", "x")])
def test_show_answers_one_question_at_a_time(cli: Cli, finished: str, flags: tuple[str, ...]) -> None:
    assert cli("show", "@last/last", *flags).code == 2
    assert "is of an artifact" in cli("show", finished, "--lineage").err


def test_of_two_submits_with_one_idempotency_key_the_second_shows_the_first(cli: Cli) -> None:
    first = cli("submit", "failing.yaml", "--executor", "inline", "--idempotency-key", "nightly 7")
    assert first.code == 3
    second = cli("submit", "failing.yaml", "--executor", "inline", "--idempotency-key", "nightly 7")
    assert second.code == 3, "it failed, and it is the same run"
    assert "submitted before with this idempotency key, as run " in second.err
    assert len(cli("ls", "--json").document["runs"]) == 1
    tagged = cli("submit", "failing.yaml", "--executor", "inline", "--idempotency-key", "nightly 7", "--tag", "team=a")
    assert "note: without --tag team=a" in tagged.err
    assert "   next: the same submit with another --idempotency-key" in tagged.err, "there is nothing to cancel any more"
    other = cli("submit", "chain.yaml", "--executor", "inline", "--idempotency-key", "nightly 7")
    assert other.code == 2
    assert "for something else" in other.err
    assert not list(Path(".orchestrator/leases").glob("run-*")), "nothing is held by what was not begun"


def test_a_second_submit_follows_the_first_while_it_runs(cli: Cli) -> None:
    arguments = ("slow.yaml", "--executor", "inline", "--set", "wait.seconds=2", "--idempotency-key", "k")
    process = spawn("submit", *arguments)
    wait_until(lambda: has_started("wait"))
    answer = cli("submit", *arguments)
    assert answer.code == 0
    assert "DONE    wait" in answer.err
    process.communicate(timeout=20)
    assert len(list(Path(".orchestrator/runs").iterdir())) == 1


def test_a_key_whose_process_died_before_its_run_was_recorded_is_free_again(cli: Cli) -> None:
    cli("submit", "chain.yaml", "--executor", "inline", "--idempotency-key", "k")
    (mark,) = Path(".orchestrator/submissions").iterdir()
    mark.write_text(json.dumps({"run": "never234", "asked": "x"}))
    answer = cli("submit", "chain.yaml", "--executor", "inline", "--idempotency-key", "k")
    assert answer.code == 0
    assert answer.err.startswith("nothing to do: ")


def test_runs_of_several_users_are_told_apart_and_asked_for(cli: Cli, finished: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store is shared; `ls` shows everybody's runs, and whose they are as soon as that is a question."""
    assert "USER" not in cli("ls").out
    monkeypatch.setenv("LOGNAME", "ann")
    cli("submit", "chain.yaml", "--set", "first.value=9", "--executor", "inline")
    listing = cli("ls").out.splitlines()
    assert "USER" in listing[0]
    assert len(listing) == 3
    (run,) = cli("ls", "--where", "user=ann", "--json").document["runs"]
    assert run["request"]["user"] == "ann"
