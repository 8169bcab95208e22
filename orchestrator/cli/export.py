"""`export`: a model artifact through an export stage, as a normal node: checked against the model, a hit the second time."""

from __future__ import annotations

import json

import click

from orchestrator.cli.asked import Asked
from orchestrator.cli.completing import complete_artifacts
from orchestrator.cli.group import command, pass_shell
from orchestrator.cli.placing import EXECUTOR, ExecutorChoice, Where
from orchestrator.cli.running import run_plan
from orchestrator.cli.shell import Shell

FORMATS = {
    "onnx": "export.onnx", "onnx_int8": "export.onnx_int8", "packed": "export.packed", "program": "export.program",
    "semi_structured": "export.semi_structured",
}  # fmt: skip


@command("export", example="orchestrator export @last/finetune --format onnx")
@click.argument("key", metavar="KEY|NAME|RUN/NODE", shell_complete=complete_artifacts)
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="onnx", show_default=True, help="What to write.")
@click.option("--set", "settings", metavar="PARAM=VALUE", multiple=True, help="A parameter of the export; repeatable.")
@EXECUTOR
@pass_shell
def export(shell: Shell, key: str, form: str, settings: tuple[str, ...], executor: ExecutorChoice | None) -> int:
    """Write a model artifact in another format, checked against the model.

    The stage's own check runs on the data that the model was trained on; where
    those are files, say which: --set data=... The result is an artifact like all
    others: asked for again, it is a hit.
    """
    from orchestrator import api
    from orchestrator.cli.naming import artifact_named
    from orchestrator.errors import UsageError
    from orchestrator.workflow.check import check_workflow
    from orchestrator.workflow.load import load_text
    from orchestrator.workflow.references import EXISTING
    from orchestrator.workflow.smoke import is_complete_data
    from stages.catalog import find_stage

    workspace = shell.workspace
    record = artifact_named(workspace, key)[0]
    if record.kind != "model":
        raise UsageError(
            f"artifact {record.key[:8]} is of kind {record.kind}; an export takes a model",
            next_step=f"orchestrator show {record.key[:8]}",
        )
    spec = find_stage(FORMATS[form])
    assert spec is not None
    data = record.identity.get("settings", {}).get("data")
    params = {"data": data} if is_complete_data(data) and "data" in spec.settings.model_fields else {}
    node = {"stage": spec.name, "inputs": {"model": f"{EXISTING}{record.key}"}, "params": params}
    text = f"version: 1\nname: export\nnodes:\n  export: {json.dumps(node)}\n"
    overrides = [f"export.{setting}" for setting in settings]
    checked = check_workflow(load_text(text, file=f"export of {record.key[:12]}", overrides=overrides))
    plan = api.plan_checked(checked, workspace=workspace)
    code = run_plan(shell, plan, where=Where(executor=executor or "inline"), asked=Asked(origin={"export_of": record.key}))
    made = plan.nodes["export"].key
    if code == 0 and not shell.as_json:
        shell.say(f"next: orchestrator artifacts get {made[:8]} ./out")
    return code
