"""docs/commands.md is what the program says of itself."""

from __future__ import annotations

from pathlib import Path

from orchestrator.cli.command_docs import commands_page

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"


def test_the_page_of_commands_is_current() -> None:
    assert PAGE.read_text() == commands_page(), "python -m orchestrator.cli.command_docs > docs/commands.md"
