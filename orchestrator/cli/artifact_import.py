"""`artifacts import`: a model from elsewhere becomes an artifact."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.shell import Shell


@command("import", example="orchestrator artifacts import ./my_vit --name my-vit")
@click.argument("folder", metavar="PATH", type=click.Path(path_type=Path))
@click.option("--kind", type=click.Choice(["model"]), default="model", show_default=True, help="What it is.")
@click.option("--name", metavar="NAME", default="", help="Also give it the next version of this name.")
@click.option("--note", metavar="TEXT", default="", help="Why, for whoever reads the list of names.")
@pass_shell
def import_artifact(shell: Shell, folder: Path, kind: str, name: str, note: str) -> int:
    """Adopt a model folder (model.json, weights.safetensors) as an artifact.

    The folder is copied and left as it is. The key follows from the content:
    the same model is the same artifact, however often it is imported.
    """
    from orchestrator.report.text import format_bytes
    from orchestrator.store.names import Names, check_name
    from orchestrator.workflow.imported import import_model

    if name:
        check_name(name)
    record, is_new = import_model(shell.workspace.artifacts, folder)
    mark = Names(shell.workspace.store).promote(record, name, note=note) if name else None
    if shell.as_json:
        named = str(mark) if mark is not None else None
        shell.document({"key": record.key, "stage": record.stage, "kind": kind, "new": is_new, "name": named})
        return 0
    shell.data([record.key])
    shell.say(
        f"{'imported' if is_new else 'there already'}: {format_bytes(record.size_bytes)} as artifact {record.key[:8]}"
        f"{f', named {mark}' if mark is not None else ''}",
        f"next: orchestrator show {mark or record.key[:8]}",
    )
    return 0
