"""Commands that are imported when they are called, and the flags that every command takes."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from orchestrator.cli.shell import Shell

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

_FLAGS = {
    "store": "store_url",
    "profile": "profile_name",
    "json": "as_json",
    "quiet": "quiet",
    "verbose": "verbose",
    "no_color": "no_color",
    "log_file": "log_path",
}


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keep a global flag; given at several places, the last one that says something counts."""
    shell = context.find_object(Shell)
    if shell is not None and value and parameter.name:
        setattr(shell, _FLAGS[parameter.name], value)
        if parameter.name == "log_file":
            from orchestrator.engine.provenance import without_secret

            shell.record("$ " + " ".join(map(without_secret, ["orchestrator", *shell.arguments])))


def global_options() -> list[click.Option]:
    """The flags that every command takes."""

    def option(*names: str, text: str, metavar: str | None = None) -> click.Option:
        is_flag = metavar is None
        return click.Option(
            names, help=text, metavar=metavar, is_flag=is_flag, expose_value=False, callback=_remember, is_eager=True
        )

    return [
        option("--store", metavar="URL", text="Folder of artifacts and runs (.orchestrator, or $ORCHESTRATOR_STORE)."),
        option("--profile", metavar="NAME", text="Place to run, of profiles.toml (docs/cluster.md): address, store, ..."),
        option("--json", text="Data as JSON on stdout, and nothing else there."),
        option("-q", "--quiet", text="Say nothing but results and errors."),
        option("-v", "--verbose", text="Say more; show the trace of an error."),
        option("--no-color", text="No colours (also: the variable NO_COLOR)."),
        option("--log-file", metavar="FILE", text="Add what is said to FILE, too: each line with its time."),
    ]  # fmt: skip


class _HasGlobalOptions(click.Command):
    """Takes the global flags; shows them at the root only, and points there from everywhere else."""

    example = ""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *global_options()]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        known = set(_FLAGS)
        own = [
            parameter.get_help_record(ctx)
            for parameter in self.get_params(ctx)
            if isinstance(parameter, click.Option) and (parameter.name not in known or ctx.parent is None)
        ]
        rows = [row for row in own if row is not None]
        if rows:
            with formatter.section("Options"):
                formatter.write_dl(rows)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)
        if ctx.parent is not None:
            formatter.write_paragraph()
            formatter.write_text("Also --store --profile --json -q -v --no-color --log-file: orchestrator --help")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        if self.example:
            with formatter.section("Example"):
                for line in self.example.splitlines():
                    formatter.write(f"  {line}\n")


class Command(_HasGlobalOptions):
    """One verb. `example` is a command to copy."""

    def __init__(self, *arguments: Any, example: str = "", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.example = example


class Verb(NamedTuple):
    """Where a command is, and its line in the list of commands, so that the list imports none of them."""

    place: str
    summary: str


class LazyGroup(_HasGlobalOptions, click.Group):
    """A group whose commands are imported when they are called."""

    def __init__(self, *arguments: Any, verbs: dict[str, Verb], example: str = "", **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.verbs = verbs
        self.example = example

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self.verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        verb = self.verbs.get(cmd_name)
        if verb is None:
            return None
        module, _, name = verb.place.partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Names of commands from the list, so that a TAB imports none of them; and the flags."""
        from click.shell_completion import CompletionItem

        names = [CompletionItem(name, help=verb.summary) for name, verb in self.verbs.items() if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.verbs and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], self.verbs, n=1)
            hint = f' Did you mean "{near[0]}"?' if near else ""
            raise click.UsageError(f'no command "{args[0]}".{hint}', ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.summary) for name, verb in self.verbs.items()])


def command(name: str, *, example: str) -> Callable[[Callable[..., int | None]], click.Command]:
    """Make a function that returns its exit code (None: 0) a command with the global flags."""

    def decorate(function: Callable[..., int | None]) -> click.Command:
        made: click.Command = click.command(name, cls=Command, example=example, context_settings=CONTEXT)(function)
        return made

    return decorate


CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 80}

pass_shell = click.make_pass_decorator(Shell)
