"""From a finished artifact back to a workflow: its record, and those of all it was made from, spelled out as a file's text.

A record holds all that makes its key, so the same keys come out again; where this code would make others, that is said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import UsageError, WorkflowError
from orchestrator.store.artifacts import Artifacts, Record
from orchestrator.workflow.check import CheckedWorkflow, check_workflow
from orchestrator.workflow.load import load_text
from orchestrator.workflow.references import EXISTING
from stages.catalog import find_stage


@dataclass(frozen=True, kw_only=True)
class Spelled:
    """The workflow that makes an artifact.

    `names`: its nodes by key; `records`: what they made before, by key, parents first; `existing`: what it begins with, to be
    found in the store where it is planned.
    """

    text: str
    names: Mapping[str, str]
    records: Mapping[str, Record]
    existing: Mapping[str, Record]


def spell_out(record: Record, artifacts: Artifacts, *, from_inputs: bool = False) -> Spelled:
    """The workflow that makes the artifact of `record` and all above it, or that alone, `from_inputs` as they are.

    An imported model is taken as it is. UsageError where the artifact was made by no stage (an import, a sweep), or where a
    record above it is gone.
    """
    if find_stage(record.stage) is None:
        raise UsageError(
            f"artifact {record.key[:8]} ({record.stage}) was made by no stage, so it cannot be made again",
            next_step=f"orchestrator show {record.key[:8]}",
        )
    records, existing = _lineage(record, artifacts, from_inputs=from_inputs)
    names: dict[str, str] = {key: f"{EXISTING}{key}" for key in existing}
    taken: set[str] = set()
    lines = ["version: 1", f"name: {_word(record.label)}", "nodes:"]
    for key, each in records.items():
        names[key] = _name(each.label, taken)
        taken.add(names[key])
        identity = each.identity
        node: dict[str, Any] = {"stage": each.stage, "params": identity.get("settings", {}), "seed": identity.get("seed", 0)}
        inputs = identity.get("inputs", {})
        node["inputs"] = {
            port: names[value] if isinstance(value, str) else [names[item] for item in value] for port, value in inputs.items()
        }
        if "workers" in identity:
            node["resources"] = {"workers": identity["workers"]}
        lines.append(f"  {names[key]}: {json.dumps({field: value for field, value in node.items() if value not in ({}, [])})}")
    made = {key: name for key, name in names.items() if key in records}
    return Spelled(text="\n".join(lines) + "\n", names=made, records=records, existing=existing)


def check_spelled(spelled: Spelled, *, file: str, keys: Mapping[str, str] | None = None) -> CheckedWorkflow:
    """The workflow, checked. `keys` by node, as a plan has them, must be those of the records: UsageError names the other."""
    try:
        checked = check_workflow(load_text(spelled.text, file=file))
    except WorkflowError as error:  # where data lie is part of no key, so a record does not say it
        record = list(spelled.records.values())[-1]
        raise UsageError(
            f"the records do not hold all that making {record.key[:8]} again takes: {error.problems[0].what}",
            next_step=f"orchestrator resume {record.run}, whose workflow says it, with another --store",
        ) from error
    for key, name in spelled.names.items():
        if keys is not None and keys.get(name) != key:
            record = spelled.records[key]
            spec = find_stage(record.stage)
            version = record.identity.get("version")
            now = spec.version if spec is not None else None
            reason = f"its version was {version} and is {now}" if now != version else "its data or its defaults have changed"
            raise UsageError(
                f"this code would make another artifact than {key[:8]} of stage {record.stage}: {reason}",
                next_step=f"check out the code that made it: orchestrator show {key[:8]}",
            )
    return checked


def _lineage(record: Record, artifacts: Artifacts, *, from_inputs: bool) -> tuple[dict[str, Record], dict[str, Record]]:
    """The records to be made, parents before children and the record itself last; and those to begin with."""
    stages: dict[str, str] = {}
    found: dict[str, Record] = {}
    existing: dict[str, Record] = {}

    def add(each: Record) -> None:
        if each.key in found or each.key in existing:
            return
        if each is not record and (from_inputs or find_stage(each.stage) is None):
            existing[each.key] = each
            return
        for key in input_keys(each):
            if not stages:
                stages.update(artifacts.stages_by_key())
            above = artifacts.find(stages[key], key) if key in stages else None
            if above is None:
                raise UsageError(
                    f"artifact {each.key[:8]} was made from {key[:8]}, whose record is gone from the store or damaged",
                    next_step=f"submit the workflow of run {each.run} again: orchestrator resume {each.run}",
                )
            add(above)
        found[each.key] = each

    add(record)
    return found, existing


def input_keys(record: Record) -> list[str]:
    """The keys of all artifacts that this one was made from, without repeats."""
    values = record.identity.get("inputs", {}).values()
    return list(dict.fromkeys(key for value in values for key in ([value] if isinstance(value, str) else value)))


def _word(label: str) -> str:
    word = re.sub(r"[^A-Za-z0-9_-]+", "_", label).strip("_")[:48]
    return word if word[:1].isalpha() or word.startswith("_") else f"n{word}"


def _name(label: str, taken: set[str]) -> str:
    word, number = _word(label), 1
    while (f"{word}_{number}" if number > 1 else word) in taken:
        number += 1
    return f"{word}_{number}" if number > 1 else word
