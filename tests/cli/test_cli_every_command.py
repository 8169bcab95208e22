"""What holds for every command there is: JSON with a schema, no control characters in a pipe, no trace, no secret."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from cli_calls import Cli

from orchestrator.cli.group import LazyGroup
from orchestrator.cli.root import orchestrator

DOCUMENTS = {
    "init": ["init", "ptq_only", "--out", "-"],
    "plan": ["plan", "chain.yaml"],
    "plan --diff": ["plan", "chain.yaml", "--diff", "@last"],
    "plan --graph": ["plan", "chain.yaml", "--graph"],
    "plan --why": ["plan", "chain.yaml", "--why", "first"],
    "validate": ["validate", "chain.yaml"],
    "wait": ["wait", "@last"],
    "status": ["status", "@last"],
    "logs": ["logs", "@last"],
    "why": ["why", "after"],
    "graph": ["graph", "@last"],
    "cancel": ["cancel", "@last"],
    "ls": ["ls", "--where", "status=done"],
    "show": ["show", "@last"],
    "show --lineage": ["show", "@last/after", "--lineage"],
    "show --children": ["show", "@last/base", "--children"],
    "show --diff": ["show", "@last/base", "--diff", "@last/after"],
    "best": ["best"],
    "pareto": ["pareto", "@last"],
    "compare": ["compare", "@last/base", "@last/after"],
    "report": ["report", "@last", "--out", "report.html"],
    "reproduce": ["reproduce", "@last/base", "--executor", "inline"],
    "sweep show": ["sweep", "show"],
    "sweep stop": ["sweep", "stop", "@last"],
    "artifacts ls": ["artifacts", "ls"],
    "artifacts get": ["artifacts", "get", "@last/base", "out"],
    "artifacts verify": ["artifacts", "verify", "--all"],
    "artifacts promote": ["artifacts", "promote", "@last/base", "named"],
    "artifacts names": ["artifacts", "names"],
    "artifacts unname": ["artifacts", "unname", "named"],
    "artifacts pin": ["artifacts", "pin", "@last/base"],
    "artifacts unpin": ["artifacts", "unpin", "@last/base"],
    "gc": ["gc"],
    "stages ls": ["stages", "ls"],
    "stages new": ["stages", "new", "own.method"],
    "stages show": ["stages", "show", "probe.echo"],
    "doctor": ["doctor"],
    "config show": ["config", "show"],
    "config set": ["config", "set", "gpu8.num_cpus", "8"],
    "completion": ["completion", "bash"],
    "version": ["version"],
}
STREAMS = {
    "submit": ["submit", "search.yaml", "--executor", "inline"],
    "resume": ["resume", "@last"],
    "events": ["events", "@last"],
}
REFUSED = {"sweep stop"}
"""The run has ended, so there is nothing to stop: an error is a document, too."""
FIRST = {"artifacts unpin": "artifacts pin", "artifacts unname": "artifacts promote"}
ELSEWHERE = {"retry", "export", "artifacts import", "cluster", "ui", "queue", "card", "stages check"}
"""They need a failed run, a model, a folder or a server: their JSON is read where they are tested."""


def verbs(group: LazyGroup = orchestrator, path: str = "") -> Iterator[str]:
    import click

    for name in group.verbs:
        command = group.get_command(click.Context(group), name)
        if isinstance(command, LazyGroup):
            yield from verbs(command, f"{path}{name} ")
        else:
            yield f"{path}{name}"


def test_every_command_is_in_this_table() -> None:
    told = {name.partition(" --")[0] for name in (*DOCUMENTS, *STREAMS)}
    missing = [name for name in verbs() if name not in told and name not in ELSEWHERE and name.split()[0] not in ELSEWHERE]
    assert missing == [], "say here how it is called"


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name.partition(" --")[0] in set(verbs())])
def test_json_of_a_command_is_one_document_with_its_schema_and_nothing_else(cli: Cli, searched: str, name: str) -> None:
    if name in FIRST:
        cli(*DOCUMENTS[FIRST[name]])
    answer = cli(*DOCUMENTS[name], "--json")
    document = json.loads(answer.out)
    assert document["schema"] == 1
    assert ("error" in document) == (name in REFUSED), document
    assert answer.err == "" or name in REFUSED


@pytest.mark.parametrize("name", STREAMS)
def test_json_of_what_goes_on_is_one_document_a_line(cli: Cli, searched: str, name: str) -> None:
    answer = cli(*STREAMS[name], "--json")
    assert answer.lines
    assert all(line["schema"] == 1 for line in answer.lines)
    assert answer.err == ""


def test_text_in_a_pipe_has_no_control_characters_and_tells_no_secret(
    cli: Cli, searched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-tell")
    monkeypatch.setenv("TEAM_WEBHOOK", "https://chat.example/do-not-tell")
    present = set(verbs())
    for name, arguments in {**DOCUMENTS, **STREAMS}.items():
        if name.partition(" --")[0] not in present:
            continue
        answer = cli(*arguments)
        assert answer.code == (2 if name in REFUSED else 0), (name, answer.err)
        text = answer.out + answer.err
        assert re.search(r"[\x00-\x08\x0b-\x1f\x7f\x9b]", text) is None, name
        assert "do-not-tell" not in text, name
        assert "Traceback" not in text, name


@pytest.mark.parametrize("flag", [("--no-color",), ()])
def test_json_is_never_coloured(cli: Cli, searched: str, flag: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b" not in cli("best", "--json", *flag).out
