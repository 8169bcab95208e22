"""`show`: one run or one artifact in full."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from orchestrator.cli.completing import complete_runs_and_artifacts
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell

if TYPE_CHECKING:
    from orchestrator.store.artifacts import Record


@command("show", example="orchestrator show 9f31c2d0")
@click.argument("name", metavar="RUN|KEY|NAME|RUN/NODE", shell_complete=complete_runs_and_artifacts)
@click.option("--lineage", is_flag=True, help="What the artifact was made from, however far.")
@click.option("--children", is_flag=True, help="What was made from the artifact.")
@click.option(
    "--diff", "other", metavar="OTHER", shell_complete=complete_runs_and_artifacts, help="What sets OTHER apart from it."
)
@pass_shell
def show(shell: Shell, name: str, lineage: bool, children: bool, other: str | None) -> int:
    """Show a run or an artifact: by id, key or the beginning of one, or by name.

    --diff takes an artifact for an artifact, and a run for a run.
    """
    from orchestrator import api
    from orchestrator.cli.naming import is_run, record_of_key
    from orchestrator.errors import UsageError
    from orchestrator.report.found_sweeps import found_sweeps, result_of
    from orchestrator.report.record_text import record_document, record_lines, run_lines
    from orchestrator.report.status_table import status_document, status_lines
    from orchestrator.report.sweep_table import sweep_document
    from orchestrator.workflow.sweep_result import SWEEP_STAGE

    if lineage + children + (other is not None) > 1:
        raise UsageError("--lineage, --children and --diff ask for different things", next_step=f"orchestrator show {name}")
    if is_run(shell.workspace, name):
        if lineage or children:
            flag = "--lineage" if lineage else "--children"
            raise UsageError(f"{flag} is of an artifact, and {name} is a run", next_step=f"orchestrator graph {name}")
        if other is not None:
            _show_run_difference(shell, name, other)
            return 0
        status = api.status(name, workspace=shell.workspace)
        sweeps = found_sweeps(status, shell.workspace.artifacts)
        if shell.as_json:
            shell.document(status_document(status, {}, sweeps=sweeps, with_text=True))
            return 0
        shell.data(run_lines(status, style=shell.style, width=shell.width))
        shell.data(
            status_lines(status, progress={}, sweeps=sweeps, style=shell.style, width=shell.width, show_all=shell.verbose)
        )
        return 0
    record = record_of_key(shell.workspace, name)
    if lineage or children or other is not None:
        _show_relations(shell, record, lineage=lineage, other=other)
        return 0
    found = result_of(record, shell.workspace.artifacts) if record.stage == SWEEP_STAGE else None
    if shell.as_json:
        shell.document({**record_document(record), **({"sweep": sweep_document(found)} if found is not None else {})})
    else:
        shell.data(record_lines(record, found=found, style=shell.style, width=shell.width))
    return 0


def _show_relations(shell: Shell, record: Record, *, lineage: bool, other: str | None) -> None:
    from orchestrator.cli.naming import record_of_key
    from orchestrator.report import lineage as relations
    from orchestrator.report.record_text import record_document

    artifacts = shell.workspace.artifacts
    if other is not None:
        difference = relations.record_difference(record, record_of_key(shell.workspace, other))
        if shell.as_json:
            shell.document({name: value for name, value in difference.items() if name != "lines"})
        else:
            shell.data(relations.record_difference_lines(difference, style=shell.style))
    elif lineage:
        ancestors = relations.find_lineage(record, artifacts)
        if shell.as_json:
            shell.document({"key": record.key, "lineage": [
                {"key": each.key, "depth": each.depth, "found": each.record is not None,
                 **({"stage": each.record.stage, "label": each.record.label} if each.record is not None else {})}
                for each in ancestors
            ]})  # fmt: skip
        else:
            shell.data(relations.lineage_lines(ancestors, style=shell.style, width=shell.width))
    else:
        found = relations.find_children(record, artifacts)
        if shell.as_json:
            shell.document({"key": record.key, "children": [record_document(each)["artifact"] for each in found]})
        elif found:
            shell.data(relations.children_lines(found, style=shell.style, width=shell.width))
        else:
            shell.say(f"nothing was made from artifact {record.key[:8]}")


def _show_run_difference(shell: Shell, name: str, other: str) -> None:
    """What `other` would make otherwise, by what both were asked for."""
    from orchestrator import api
    from orchestrator.cli.plan import show_diff

    workspace = shell.workspace
    now = api.status(other, workspace=workspace)
    show_diff(shell, api.plan_recorded(now.id, workspace=workspace), name)
