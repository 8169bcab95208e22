"""Every command that the documentation and the heads of workflows show is one that exists, with these flags."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from orchestrator.cli.root import orchestrator

ROOT = Path(__file__).parents[2]
MISTAKES = ROOT / "docs" / "transcripts" / "errors.md"
PAGES = sorted({ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), ROOT / "cluster" / "README.md"} - {MISTAKES})
WORKFLOWS = sorted((ROOT / "workflows").rglob("*.yaml"))


def commands_in(text: str) -> list[str]:
    """Whole lines of a code block or a workflow's head that begin with the command."""
    lines = re.findall(r"^(?:    |# |\$ )?(orchestrator (?!--help).+)$", text, re.MULTILINE)
    return [re.split(r"\s+#\s|\s{6,}", line)[0].strip() for line in lines if not line.startswith("orchestrator needs")]


def parse(line: str) -> None:
    """Parse a command line as the program would, running nothing; raises click's UsageError."""
    words = shlex.split(line)[1:]
    command: click.Command = orchestrator
    context = click.Context(command, info_name="orchestrator")
    while True:
        parser = command.make_parser(context)
        _, rest, _ = parser.parse_args(list(words))
        if not isinstance(command, click.Group):
            return
        name, *words = rest
        found = command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"no command {name} in: {line}")
        command, context = found, click.Context(found, parent=context, info_name=name)


@pytest.mark.parametrize("page", [*PAGES, *WORKFLOWS], ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_shown_exist_with_their_flags(page: Path) -> None:
    for line in commands_in(page.read_text()):
        try:
            parse(line)
        except click.UsageError as error:
            pytest.fail(f"{page.name}: {line}\n{error.format_message()}")


def test_a_command_that_does_not_exist_is_found() -> None:
    with pytest.raises(click.UsageError):
        parse("orchestrator plan FILE --wy NODE")
    with pytest.raises(click.UsageError):
        parse("orchestrator plann FILE")
