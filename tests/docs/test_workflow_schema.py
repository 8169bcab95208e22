"""The published JSON Schema of workflow files: it is current, takes every workflow that we ship, and refuses what is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from orchestrator.report.workflow_schema import workflow_schema
from orchestrator.workflow.yaml12 import YamlReader

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "workflow.schema.json"
WORKFLOWS = sorted((ROOT / "workflows").rglob("*.yaml"))
NODE = {"stage": "sparsify.lbc", "inputs": {"model": "pretrain"}, "params": {"data": "digits", "n_m": "2:4"}}


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = json.loads(FILE.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def workflow(**node: Any) -> dict[str, Any]:
    return {"version": 1, "name": "w", "nodes": {"sparse": {**NODE, **node}}}


def test_the_published_schema_is_as_the_models_say() -> None:
    assert json.loads(FILE.read_text()) == json.loads(json.dumps(workflow_schema())), (
        "run: python -m orchestrator.report.workflow_schema > docs/workflow.schema.json"
    )


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_shipped_workflow_fits_the_schema(file: Path, validator: Draft202012Validator) -> None:
    data = YamlReader(file.read_bytes().decode(), file=str(file)).read()
    assert [f"{list(error.path)}: {error.message}" for error in validator.iter_errors(data)] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"stage": "sparsify.lcb"},
        {"params": {"data": "digits", "n_of_m": "2:4"}},
        {"params": {"data": "digits", "epochs": -1}},
        {"inputs": {"modell": "pretrain"}},
        {"resources": {"cpu": 1}},
        {"retries": 3},
    ],
    ids=str,
)
def test_what_is_wrong_in_a_node_does_not_fit(wrong: dict[str, Any], validator: Draft202012Validator) -> None:
    assert validator.is_valid(workflow())
    assert not validator.is_valid(workflow(**wrong))


def test_words_with_units_and_short_forms_fit(validator: Draft202012Validator) -> None:
    assert validator.is_valid(workflow(timeout="30m", resources={"memory": "4GiB"}, retry={"backoff": "2s"}))
