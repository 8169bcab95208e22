"""`completion`: the lines that make a shell complete commands, flags, runs, nodes, artifacts and stages."""

from __future__ import annotations

import click

from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell

PLACES = {
    "bash": "orchestrator completion bash >> ~/.bashrc",
    "zsh": "orchestrator completion zsh >> ~/.zshrc",
    "fish": "orchestrator completion fish > ~/.config/fish/completions/orchestrator.fish",
}


@command("completion", example="orchestrator completion bash >> ~/.bashrc")
@click.argument("name", metavar="bash|zsh|fish", type=click.Choice(list(PLACES)))
@pass_shell
def completion(shell: Shell, name: str) -> int:
    """Print what makes a shell complete commands, flags, ids and names.

    Runs, nodes and artifacts are those of the store, asked at each TAB.
    """
    from click.shell_completion import ShellComplete, get_completion_class

    from orchestrator.cli.root import orchestrator

    found = get_completion_class(name)
    assert found is not None
    script = ShellComplete.source(found(orchestrator, {}, "orchestrator", "_ORCHESTRATOR_COMPLETE"))
    if shell.as_json:
        shell.document({"shell": name, "script": script})
    else:
        shell.data(script.strip("\n").splitlines())
        if shell.err.isatty():
            shell.say(f"to have it always: {PLACES[name]}")
    return 0
