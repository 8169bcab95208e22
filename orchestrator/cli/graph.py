"""`graph`: a workflow file or a run as a picture of what needs what."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.completing import complete_file_or_run
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell
from orchestrator.report.graph import WorkflowGraph, graph_document, states_of_run, tree_lines, workflow_graph
from orchestrator.report.text import Style

_SUFFIXES = {".svg": "svg", ".dot": "dot", ".gv": "dot", ".mmd": "mermaid", ".txt": "text"}


@command("graph", example="orchestrator graph @last --out run.svg")
@click.argument("what", metavar="FILE|RUN", shell_complete=complete_file_or_run)
@click.option("--format", "form", type=click.Choice(["text", "mermaid", "dot", "svg"]), help="Left out: by the name of --out.")
@click.option("--out", metavar="FILE", default="-", help='Write to a file ("-", the default: stdout).')
@pass_shell
def graph(shell: Shell, what: str, form: str | None, out: str) -> int:
    """Show what needs what in a workflow; of a run, with the state of each node.

    Nodes with foreach and the trials of a sweep are one box each.
    """
    from orchestrator import api
    from orchestrator.cli.files import write_out
    from orchestrator.errors import UsageError
    from orchestrator.report import graph_formats

    if what.endswith((".yaml", ".yml")) or Path(what).is_file():
        found = workflow_graph(api.load(what))
    else:
        status = api.status(what, workspace=shell.workspace)
        found = workflow_graph(api.load_recorded(status.id, workspace=shell.workspace), states_of_run(status))
    if form is None and out != "-" and Path(out).suffix not in _SUFFIXES:
        raise UsageError(
            f"--out {out} does not say a format; expected a name that ends with {', '.join(_SUFFIXES)}",
            next_step=f"orchestrator graph {what} --out {Path(out).stem}.svg",
        )
    if shell.as_json:
        shell.document(graph_document(found))
        if out == "-":
            return 0
    form = form or (_SUFFIXES[Path(out).suffix] if out != "-" else "text")
    if form == "text":
        text = "\n".join(_tree(shell, found) if out == "-" else tree_lines(found, style=Style(), width=None, is_ascii=False))
    else:
        draw = {"mermaid": graph_formats.graph_mermaid, "dot": graph_formats.graph_dot, "svg": graph_formats.graph_svg}
        text = draw[form](found).rstrip("\n")
    write_out(shell, out, text if out == "-" else f"{text}\n", what=f"the graph of {found.name}")
    return 0


def show_tree(shell: Shell, found: WorkflowGraph) -> None:
    """A graph as a tree of text, or as JSON."""
    if shell.as_json:
        shell.document(graph_document(found))
    else:
        shell.data(_tree(shell, found))


def _tree(shell: Shell, found: WorkflowGraph) -> list[str]:
    is_ascii = "utf" not in (getattr(shell.out, "encoding", None) or "").lower()
    return tree_lines(found, style=shell.style, width=shell.width, is_ascii=is_ascii)
