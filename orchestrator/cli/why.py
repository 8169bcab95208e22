"""`why`: what sets a node of a run apart from another, or from what had been made before the run."""

from __future__ import annotations

import re

import click

from orchestrator.cli.completing import complete_nodes_of_last
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell

_NODE_OF_RUN = re.compile(r"(.+?)@(@last|@last-failed|[^@]+)")


@command("why", example="orchestrator why sparsify@@last")
@click.argument("node", metavar="NODE[@RUN]", shell_complete=complete_nodes_of_last)
@click.argument("other", metavar="[OTHER]", required=False)
@pass_shell
def why(shell: Shell, node: str, other: str | None) -> int:
    """Show why a node of a run (default: @last) was run, or was a hit.

    OTHER: another NODE@RUN, a key or a name to compare with; without it, the
    nearest artifact that had been made before. The first field that differs
    comes first: the others mostly follow from it.
    """
    from orchestrator import api
    from orchestrator.cli.naming import nodes_of_run, record_of_key
    from orchestrator.errors import UsageError
    from orchestrator.report.run_status import NodeStatus, RunStatus
    from orchestrator.report.why_run import Subject, find_reason, reason_document, reason_lines, subject_of

    workspace = shell.workspace

    def subjects(label: str, run: str) -> list[tuple[RunStatus, NodeStatus, Subject]]:
        status = api.status(run, workspace=workspace)
        nodes = nodes_of_run(status, label)
        made: dict[str, api.PlanNode] = {}
        found = []
        for each in nodes:
            record = workspace.artifacts.find(each.stage, each.key)
            if record is None and not made:
                made = {one.key: one for one in api.plan_recorded(status.id, workspace=workspace).nodes.values()}
            identity = record.identity if record is not None else made[each.key].identity if each.key in made else None
            if identity is None:
                raise UsageError(
                    f"{each.label} of run {status.id} has made no artifact, and the plan of its workflow has no such key now",
                    next_step=f"orchestrator status {status.id}",
                )
            name = f"{each.label}@{status.id}"
            found.append((status, each, Subject(name=name, stage=each.stage, key=each.key, identity=identity)))
        return found

    match = _NODE_OF_RUN.fullmatch(node)
    asked = subjects(match[1], match[2]) if match else subjects(node, "@last")
    against = None
    if other is not None:
        match = _NODE_OF_RUN.fullmatch(other)
        is_name = match is not None and match[2].isdigit()  # vit-sparse@3 is the name of an artifact
        if match is not None and not is_name:
            choices = subjects(match[1], match[2])
            if len(choices) > 1:
                labels = ", ".join(each.label for _, each, _ in choices[:6])
                raise UsageError(f'"{match[1]}" means several nodes: {labels}', next_step="name one of them")
            against = choices[0][2]
        else:
            against = subject_of(record_of_key(workspace, other))
    reasons = [find_reason(status, each, subject, workspace.artifacts, other=against) for status, each, subject in asked]
    if shell.as_json:
        shell.document({"why": [reason_document(reason) for reason in reasons]})
    else:
        shell.data(line for reason in reasons for line in reason_lines(reason, style=shell.style))
    return 0
