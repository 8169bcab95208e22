"""Where the results of a run come from: the artifacts behind them, the environments that made them, how to make them again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orchestrator.report.page.sources import Sources
from orchestrator.report.run_status import submit_command
from orchestrator.report.text import printable
from orchestrator.store.artifacts import Record
from orchestrator.workflow.drift import source_digest
from stages.catalog import find_stage

MAX_ARTIFACTS = 200


def lineage(find: Callable[[str], Record | None], keys: Sequence[str]) -> list[Record]:
    """The artifacts with these keys and all that they were made from, what was made first coming first."""
    found: dict[str, Record] = {}
    waiting = [key for key in keys if key]
    while waiting and len(found) < MAX_ARTIFACTS:
        record = find(waiting[0])
        key, *waiting = waiting
        if record is not None and key not in found:
            found[key] = record
            waiting += [each for _, each in input_keys(record)]
    return sorted(found.values(), key=lambda record: (record.finished, record.label))


def input_keys(record: Record) -> list[tuple[str, str]]:
    """(port, key) of everything that an artifact was made from."""
    inputs: Mapping[str, Any] = record.identity.get("inputs", {})
    return [(port, key) for port, value in inputs.items() for key in ([value] if isinstance(value, str) else value)]


def environments(records: Sequence[Record]) -> list[dict[str, Any]]:
    """The distinct environments of these artifacts, with the labels of what each made."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        provenance = {name: value for name, value in record.provenance.items() if name != "command"}
        place = found.setdefault(json.dumps(provenance, sort_keys=True, default=str), {**provenance, "made": []})
        place["made"].append(record.label)
    return list(found.values())


def has_drifted(record: Record) -> bool | None:
    """Whether the stage's code stands here as it made the artifact; None where the stage is not installed here."""
    spec = find_stage(record.stage)
    return None if spec is None or not record.source_digest else record.source_digest != source_digest(spec.implementation)


def reproduce_document(sources: Sources, records: Sequence[Record]) -> dict[str, Any]:
    """The commands that make the same again, and the workflow text that they need."""
    request = sources.status.request
    commits = {str(record.provenance.get("commit", "")) for record in records} - {""}
    is_dirty = any(record.provenance.get("dirty") for record in records)
    return {
        "command": submit_command(request),
        "file": sources.status.file,
        "text": request.get("text", ""),
        "commits": sorted(commits),
        "is_dirty": is_dirty,
        "tags": {str(name): printable(str(value)) for name, value in (request.get("tags") or {}).items()},
    }


def lineage_document(records: Sequence[Record]) -> list[dict[str, Any]]:
    """A lineage as data."""
    known = {record.key: record for record in records}
    return [_artifact_document(record, known) for record in records]


def _artifact_document(record: Record, known: Mapping[str, Record]) -> dict[str, Any]:
    return {
        "label": record.label,
        "stage": record.stage,
        "kind": record.kind,
        "key": record.key,
        "run": record.run,
        "finished": record.finished,
        "seconds": record.seconds,
        "size_bytes": record.size_bytes,
        "seed": record.identity.get("seed"),
        "settings": record.identity.get("settings", {}),
        "data": record.identity.get("data"),
        "inputs": [
            {"port": port, "key": key, "label": known[key].label if key in known else ""} for port, key in input_keys(record)
        ],
        "has_drifted": has_drifted(record),
        "metrics": record.metrics,
        "measurements": record.measurements,
    }
