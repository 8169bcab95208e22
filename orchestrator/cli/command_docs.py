"""The commands as a page: `python -m orchestrator.cli.command_docs > docs/commands.md`. A test holds the page against them."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator

import click

from orchestrator.cli.group import Command, LazyGroup, global_options
from orchestrator.cli.root import orchestrator
from orchestrator.report.event_types import EVENT_TYPES

_CODES = (
    ("0", "done, constraints met; or nothing to do"),
    ("1", "internal error: ours"),
    ("2", "the command or the workflow is wrong; nothing was run"),
    ("3", "a node failed, or too many trials of a sweep"),
    ("4", "done, but no trial of a sweep meets its constraints"),
    ("5", "stored bytes differ from their digest; `reproduce`: the result differed"),
    ("7", "store or Ray unreachable; the same command goes on"),
    ("8", "`plan --exit-code`: there is work to do"),
    ("124", "`wait --timeout`: the run has not ended yet"),
    ("130, 143", "interrupted, terminated; the same command, or `resume`, goes on"),
)


def commands_page() -> str:
    """The whole page, in Markdown."""
    found = list(_commands(orchestrator, "orchestrator"))
    lines = [
        "# Commands",
        "",
        "Written from the program by `python -m orchestrator.cli.command_docs > docs/commands.md`; `--help` of a command tells",
        "the same. RUN is an id, a unique beginning of one, `@last` or `@last-failed`; KEY a unique beginning of a key; NAME a",
        "name given by `artifacts promote`, with or without its version (`vit-sparse@3`).",
        "",
        "Data go to stdout, words for people to stderr. With `--json` stdout holds JSON alone: one document, or JSON Lines",
        "where something goes on (`submit`, `resume`, `retry`, `events`, `logs -f`, `status --watch`). Each has `schema: 1`;",
        "the number rises when a field changes its meaning or goes, not when one is added. An error is a document, too:",
        '`{"schema": 1, "error": {"message", "next", "exit_code"}}`, with `problems` where a workflow file has some.',
        "",
        "| flag of every command | meaning |",
        "|---|---|",
        *(_row(option) for option in global_options()),
        "",
        "| exit code | meaning |",
        "|---|---|",
        *(f"| {code} | {meaning} |" for code, meaning in _CODES),
        "",
        "| command | what it does |",
        "|---|---|",
        *(f"| [`{path.partition(' ')[2]}`](#{_anchor(path)}) | {_cell(_first(command))} |" for path, command in found),
        "",
    ]
    for path, command in found:
        lines += _section(path, command)
    lines += [
        "## Events",
        "",
        "What `events` and `--json` of a run tell, by `type`; all have `time`, and those of a node `node`",
        "and `key`.",
        "",
    ]
    lines += [
        "| type | meaning and further fields |",
        "|---|---|",
        *(f"| `{name}` | {_cell(text)} |" for name, text in EVENT_TYPES.items()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _commands(group: LazyGroup, path: str) -> Iterator[tuple[str, Command]]:
    context = click.Context(group)
    for name in group.verbs:
        command = group.get_command(context, name)
        if isinstance(command, LazyGroup):
            yield from _commands(command, f"{path} {name}")
        elif isinstance(command, Command):
            yield f"{path} {name}", command


def _section(path: str, command: Command) -> list[str]:
    arguments = [each for each in command.params if isinstance(each, click.Argument)]
    options = [each for each in command.params if isinstance(each, click.Option)]
    context = click.Context(command, info_name=path)
    usage = " ".join([path, *(each.make_metavar(context) for each in arguments), *(["[OPTIONS]"] if options else [])])
    text = inspect.cleandoc(command.help or "")
    lines = [f"## {path.partition(' ')[2]}", "", f"`{usage}`", "", *_plain(text), ""]
    if options:
        lines += ["| flag | meaning |", "|---|---|", *(_row(each) for each in options), ""]
    return [*lines, "```sh", *command.example.splitlines(), "```", ""]


def _row(option: click.Option) -> str:
    record = option.get_help_record(click.Context(click.Command("x")))
    assert record is not None
    return f"| `{_cell(record[0])}` | {_cell(record[1])} |"


def _plain(text: str) -> list[str]:
    """Help as Markdown: what stands in angles or stars there is text."""
    return text.replace("<", "&lt;").splitlines()


def _first(command: Command) -> str:
    return inspect.cleandoc(command.help or "").split("\n\n")[0].replace("\n", " ").rstrip(".")


def _anchor(path: str) -> str:
    return re.sub(r"[^a-z-]", "", path.partition(" ")[2].replace(" ", "-"))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


if __name__ == "__main__":
    sys.stdout.write(commands_page())
