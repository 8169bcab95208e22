"""`report`: a run as one page that needs nothing else, or as Markdown, CSV or JSON."""

from __future__ import annotations

import click

from orchestrator.cli.completing import complete_runs
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell

FORMATS = ("html", "md", "csv", "json")


@command("report", example="orchestrator report @last\norchestrator report k7m2 --format md --out k7m2.md")
@click.argument("run", required=False, default="@last", shell_complete=complete_runs)
@click.option("--format", "form", type=click.Choice(FORMATS), help="html, unless --out or --json say otherwise.")
@click.option("--out", metavar="FILE", help='Left out: report-RUN.html, and stdout for other formats ("-").')
@pass_shell
def report(shell: Shell, run: str, form: str | None, out: str | None) -> int:
    """Write what is known of RUN (default: @last): one HTML page without requests.

    Verdict, trade-offs, graph, timeline, trials, what each method did, cost,
    lineage, failures, how to reproduce. Reads ledger and records only, so it
    works while the run goes on and long after its cluster is gone.
    """
    from orchestrator.errors import UsageError
    from orchestrator.report.page.document import report_document
    from orchestrator.report.page.sources import read_sources
    from orchestrator.store.ledger import now_text

    if shell.as_json and form not in (None, "json") and out in (None, "-"):
        raise UsageError(f"--json and --format {form} both want stdout", next_step=f"--format {form} --out FILE")
    form = form or _format(out, as_json=shell.as_json)
    workspace = shell.workspace
    shell.stay()
    sources = read_sources(workspace.store, workspace.ledger.resolve(run), now=now_text())
    document = report_document(sources)
    workspace.store.release_blobs()
    if shell.as_json or (form == "json" and out in (None, "-")):
        shell.document(document)
    if form == "json" and out in (None, "-"):
        return 0
    from orchestrator.cli.files import write_file
    from orchestrator.report.text import format_bytes

    out = out or (f"report-{sources.status.id}.html" if form == "html" else "-")
    text = _text(form, sources, document, program=shell.program)
    if out == "-":
        shell.data(text.splitlines())
        return 0
    data = text.encode()
    write_file(out, data)
    shell.say(f"report of run {sources.status.id} ({sources.status.state}) written to {out}, {format_bytes(len(data))}")
    return 0


def _format(out: str | None, *, as_json: bool) -> str:
    """By the ending of the file's name, where it says one."""
    ending = (out or "").rpartition(".")[2].lower()
    known = {"html": "html", "htm": "html", "md": "md", "csv": "csv", "json": "json"}
    if out in (None, "-"):
        return "json" if as_json else "html"
    return known.get(ending, "html")


def _text(form: str, sources: object, document: dict[str, object], *, program: str) -> str:
    import json

    from orchestrator.cli.shell import SCHEMA
    from orchestrator.report.page.sources import Sources

    assert isinstance(sources, Sources)
    if form == "html":
        from orchestrator.report.page.html import html_page

        return html_page(document, program=program)
    if form == "json":
        return json.dumps({"schema": SCHEMA, **document}, indent=1, allow_nan=False) + "\n"
    from orchestrator.report.page.text_forms import csv_form, markdown

    return markdown(document, program=program) if form == "md" else csv_form(sources, document)
