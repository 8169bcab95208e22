"""A plan as a file: what was asked and the key of every node, so that `submit plan.json` runs that and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from orchestrator import api
from orchestrator.cli.files import write_file
from orchestrator.cli.shell import SCHEMA
from orchestrator.errors import UsageError
from orchestrator.report.plan_table import plan_document
from orchestrator.workflow.check import check_workflow
from orchestrator.workflow.load import load_text

KIND = "orchestrator plan"


def is_plan_file(path: str) -> bool:
    """Whether a file is meant as a saved plan: workflows are YAML."""
    return path.endswith(".json")


def write_plan(path: str, plan: api.Plan, workspace: api.Workspace) -> None:
    """Save a plan; UsageError where the file cannot be written or would pass for a workflow."""
    if not is_plan_file(path):
        raise UsageError(f'--out "{path}": a saved plan is a .json file', next_step=f"--out {Path(path).stem}.json")
    content = {
        "schema": SCHEMA,
        "kind": KIND,
        **plan_document(plan, workspace.artifacts),
        "text": plan.checked.loaded.text,
        "selection": vars(plan.selection),
    }
    write_file(path, (json.dumps(content, indent=2) + "\n").encode())


def read_plan(path: str, workspace: api.Workspace) -> api.Plan:
    """The plan that was saved, against what the store holds now.

    UsageError where the file is no plan, or where this code would make other keys of it than it names.
    """
    content = _content(path)
    try:
        checked = check_workflow(load_text(content["text"], file=content["file"], overrides=content["overrides"]))
        selection = api.Selection(**{name: tuple(names) for name, names in content["selection"].items()})
        wanted = {node["label"]: node["key"] for node in content["nodes"]}
        wanted |= {sweep["sweep"]: sweep["key"] for sweep in content["sweeps"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise _no_plan(path, f"{error} is missing or of another form") from error
    plan = api.plan_checked(checked, workspace=workspace, selection=selection)
    keys = {label: node.key for label, node in plan.nodes.items()} | {name: sweep.key for name, sweep in plan.sweeps.items()}
    other = next((label for label, key in wanted.items() if keys.get(label) != key), None)
    if other is not None:
        raise UsageError(
            f'{path} cannot be run unchanged: node "{other}" had key {wanted[other][:8]} and would have '
            f"{keys.get(other, 'none')[:8]} with this version of the code",
            next_step=f"orchestrator plan {content['file']} --out {path}",
        )
    return plan


def _content(path: str) -> dict[str, Any]:
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", next_step="orchestrator plan FILE --out plan.json") from error
    except ValueError as error:
        raise _no_plan(path, f"it is no JSON ({error})") from error
    if not isinstance(content, dict) or content.get("kind") != KIND:
        raise _no_plan(path, "it was not written by plan --out")
    if content.get("schema") != SCHEMA:
        raise _no_plan(path, f"it has schema {content.get('schema')!r}, this release reads {SCHEMA}")
    return content


def _no_plan(path: str, why: str) -> UsageError:
    return UsageError(f"{path} is no saved plan: {why}", next_step="orchestrator plan FILE --out plan.json")
