"""`card`: the model card of one artifact."""

from __future__ import annotations

import click

from orchestrator.cli.completing import complete_artifacts
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell


@command("card", example="orchestrator card 9f31c2d0 --out MODEL_CARD.md")
@click.argument("name", metavar="KEY|NAME|RUN/NODE", shell_complete=complete_artifacts)
@click.option("--out", metavar="FILE", default="-", help='Write to a file ("-", the default: stdout).')
@pass_shell
def card(shell: Shell, name: str, out: str) -> int:
    """Write the model card of an artifact as Markdown.

    What it is, from what, its figures with intervals and the evaluations of it,
    environment, how to load it, how to reproduce it.
    """
    from orchestrator.cli.files import write_out
    from orchestrator.cli.naming import artifact_named
    from orchestrator.report.card import card_document, card_markdown, read_card

    record, _ = artifact_named(shell.workspace, name)
    found = read_card(record, shell.workspace.artifacts)
    if shell.as_json:
        shell.document({"card": card_document(found)})
        if out == "-":
            return 0
    write_out(shell, out, card_markdown(found, program=shell.program), what=f"the card of {record.key[:8]}")
    return 0
