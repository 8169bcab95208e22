"""Help: every command has an example and fits a terminal of 80 columns; global flags stand before or after the verb."""

from __future__ import annotations

import pytest
from cli_calls import Cli

from orchestrator.cli.artifacts import artifacts
from orchestrator.cli.root import orchestrator
from orchestrator.cli.stages import stages
from orchestrator.cli.sweep import sweep

GROUPS = {"artifacts": artifacts, "stages": stages, "sweep": sweep}
COMMANDS = [
    (),
    *((verb,) for verb in orchestrator.verbs),
    *((group, verb) for group, found in GROUPS.items() for verb in found.verbs),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_80_columns_and_shows_an_example(cli: Cli, command: tuple[str, ...]) -> None:
    answer = cli(*command, "--help")
    assert answer.code == 0
    assert answer.err == ""
    assert max(len(line) for line in answer.out.splitlines()) <= 80
    assert f"Example:\n  orchestrator {' '.join(command)}" in answer.out


def test_help_lists_every_command_with_the_words_of_its_own_help(cli: Cli) -> None:
    listing = cli("--help").out
    for verb, (_, summary) in orchestrator.verbs.items():
        assert f"  {verb}" in listing
        assert summary in listing


@pytest.mark.parametrize("arguments", [["--json", "ls"], ["ls", "--json"], ["--store", "elsewhere", "ls", "--json"]])
def test_global_flags_stand_before_or_after_the_verb(cli: Cli, arguments: list[str]) -> None:
    assert cli(*arguments).document == {"schema": 1, "runs": []}


def test_a_flag_of_a_group_reaches_its_commands(cli: Cli) -> None:
    assert cli("stages", "--json", "ls").document["schema"] == 1


def test_a_misspelt_command_is_answered_with_the_nearest(cli: Cli) -> None:
    assert 'Did you mean "submit"?' in cli("submti").err


def test_no_arguments_show_the_help(cli: Cli) -> None:
    answer = cli()
    assert answer.err.startswith("Usage: orchestrator ")
    assert "Commands:" in answer.err
    assert "error:" not in answer.err
    assert answer.code == 2
