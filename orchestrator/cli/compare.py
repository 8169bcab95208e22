"""`compare`: artifacts side by side."""

from __future__ import annotations

import click

from orchestrator.cli.completing import complete_artifacts
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell


@command("compare", example="orchestrator compare 9f31c2d0 4be01a77\norchestrator compare @last/base @last/search/best/tune")
@click.argument("names", metavar="A B...", nargs=-1, required=True, shell_complete=complete_artifacts)
@pass_shell
def compare(shell: Shell, names: tuple[str, ...]) -> int:
    """Compare artifacts: settings that differ, metrics with intervals, cost.

    A, B: the beginning of a key, or RUN/NODE such as @last/search/t0003/tune
    (search/best/tune: of the best trial). Each is held against the first.
    """
    from orchestrator.cli.naming import artifact_named
    from orchestrator.errors import UsageError
    from orchestrator.report.comparison import compared, comparison_document, comparison_lines

    if len(names) < 2:
        raise UsageError("one artifact has nothing to be compared with", next_step=f"orchestrator compare {names[0]} OTHER")
    workspace = shell.workspace
    found = []
    for name in names:
        record, stages = artifact_named(workspace, name)
        found.append(compared(record.label if name == record.key[: len(name)] else name, record, workspace.artifacts, stages))
    if shell.as_json:
        shell.document(comparison_document(found))
    else:
        shell.data(comparison_lines(found, style=shell.style, width=shell.width))
    return 0
