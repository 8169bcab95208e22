"""`--log-file`: what was said, kept with its time, whatever the terminal or the pipe showed of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cli_calls import Cli

STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z  .*")


def kept() -> list[str]:
    lines = Path("run.log").read_text().splitlines()
    assert all(STAMP.fullmatch(line) for line in lines), lines
    return [line[26:] for line in lines]


@pytest.mark.parametrize("flag", ["--json", "--quiet", "--verbose"])
def test_the_log_tells_the_whole_run_whatever_the_streams_show(cli: Cli, flag: str) -> None:
    assert cli("submit", "chain.yaml", "--executor", "inline", flag, "--log-file", "run.log").code == 0
    lines = kept()
    assert lines[0] == f"$ orchestrator submit chain.yaml --executor inline {flag} --log-file run.log"
    assert [line for line in lines if line.startswith("DONE    last")]
    assert sum(line.startswith("RUN     first  started") for line in lines) == 1


def test_later_calls_add_to_it_and_errors_stand_in_it(cli: Cli, finished: str) -> None:
    cli("ls", "--log-file", "run.log")
    cli("plan", "absent.yaml", "--log-file", "run.log")
    lines = kept()
    assert [line.split()[2] for line in lines if line.startswith("$ ")] == ["ls", "plan"]
    assert any(finished in line for line in lines)
    assert any(line.startswith("error: ") for line in lines)
    assert "next: orchestrator validate" in lines[-1]


def test_it_holds_no_secret_of_the_command_line_and_no_colour(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from orchestrator.cli.shell import Shell

    cli("submit", "chain.yaml", "--executor", "inline", "--tag", "api_key=do-not-tell", "--log-file", "run.log")
    monkeypatch.setattr(Shell, "_may_colour", lambda *_: True)
    assert "\x1b[" in cli("status", "@last", "--log-file", "run.log").out
    text = Path("run.log").read_text()
    assert "do-not-tell" not in text.splitlines()[0]
    assert "\x1b" not in text


def test_a_log_file_that_cannot_be_written_is_told_before_anything_runs(cli: Cli) -> None:
    answer = cli("submit", "chain.yaml", "--executor", "inline", "--log-file", "no/such/folder/run.log")
    assert answer.code == 2
    assert answer.err.startswith("error: --log-file no/such/folder/run.log cannot be written")
    assert not Path(".orchestrator").exists()
