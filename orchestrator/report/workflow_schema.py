"""The workflow file as JSON Schema, for editors: `python -m orchestrator.report.workflow_schema > docs/workflow.schema.json`.

Written from the same models that check a file, so an editor that knows it completes stages, ports and parameters. It knows
shapes and legal values only; references between nodes are what `orchestrator validate` checks beside.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from orchestrator.workflow.spec import Node
from orchestrator.workflow.sweep_spec import SweepNode
from orchestrator.workflow.workflow_spec import Workflow
from stages.catalog import all_stages
from stages.contract import Port, StageSpec

Schema = dict[str, Any]


def workflow_schema() -> Schema:
    """The whole schema (JSON Schema 2020-12)."""
    stages = list(all_stages().values())
    models: list[type[BaseModel]] = [Workflow, Node, SweepNode, *dict.fromkeys(spec.settings for spec in stages)]
    references, definitions = models_json_schema([(model, "validation") for model in models])
    reference = {model: references[model, "validation"] for model in models}
    parts: Schema = definitions["$defs"]
    for spec in stages:  # a parameter may also come from foreach or from the space of a sweep
        _named(parts, reference[spec.settings]).pop("required", None)
    node = _named(parts, reference[Node])
    node["properties"]["stage"] = {"enum": [spec.name for spec in stages], "description": "orchestrator stages ls"}
    node["allOf"] = [_rule(spec, params=reference[spec.settings]) for spec in stages]
    workflow = _named(parts, reference[Workflow])
    parts = {name: part for name, part in parts.items() if part is not workflow}
    del workflow["properties"]["sweeps"]  # in the file a sweep stands among the nodes
    workflow["properties"]["nodes"] = {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": {
            "if": {"required": ["sweep"]},
            "then": reference[SweepNode],
            "else": reference[Node],
        },
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **workflow, "$defs": parts}


def _named(parts: Schema, reference: Schema) -> Schema:
    part: Schema = parts[reference["$ref"].rpartition("/")[2]]
    return part


def _rule(spec: StageSpec, *, params: Schema) -> Schema:
    """What a node of this stage may say under `params` and `inputs`."""
    ports = {name: _port(port) for name, port in spec.inputs.items()}
    return {
        "if": {"properties": {"stage": {"const": spec.name}}, "required": ["stage"]},
        "then": {
            "description": spec.summary,
            "properties": {
                "params": params,
                "inputs": {"type": "object", "properties": ports, "additionalProperties": False},
            },
        },
    }


def _port(port: Port) -> Schema:
    several = {"type": "array", "items": {"type": "string"}}
    return {
        "description": f"{port.kind}{', optional' if port.optional else ''}",
        **({"anyOf": [{"type": "string"}, several]} if port.many else {"type": "string"}),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(workflow_schema(), indent=1) + "\n")
